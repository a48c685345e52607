"""Attention to a sliding window, to sinks and to summaries, for sequences sorted through space.

Sinks are the first tokens of a sequence: registers, and the lights, which carry the energy. They
read all tokens and all tokens read them, as in StreamingLLM (arXiv 2309.17453). The other tokens
should be sorted along a curve through space. They are cut into blocks; a token reads the sinks, the
tokens of the blocks within `window` places of its own, and one summary of every other block: the
mean of its keys and values, with the weight of all its tokens. So every token is read exactly once,
by itself or through its summary. This is the far field of a particle method of one level, such as
that of Barnes and Hut (Nature 324, 1986), with softmax weights.

With S sinks, n other tokens, blocks of b and a window w a head scores
S (S + n) + n (S + 2w + b + n / b) pairs. Sequences that bring their own summaries, such as those of
RenderFormer V2, are not summarised again; the window is then that of each token.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rf_jax.attention.auto import auto_attention
from rf_jax.attention.registry import Attention, Sinks
from rf_jax.attention.summaries import block_summaries
from rf_jax.attention.window import Near, Shared, window_attention
from rf_jax.schema import Count, check_fields


@dataclasses.dataclass(frozen=True)
class SlidingSinkOptions:
    """Options of the attention.

    Attributes:
      window: how many places before and after itself a token that is no sink reads; with summaries,
        before and after its block, in whole blocks. 0 leaves the token or its block.
      block: tokens that share a summary; 0 makes no summaries, and what is beyond the window is not
        read.
      lights: how many triangles that emit light are sinks, at most; the brightest, if there are
        more. For networks of V1, because all lights are sinks in V2.
    """

    window: Count = 256
    block: Count = 32
    lights: Count = 16

    def __post_init__(self):
        check_fields(self)

    def near(self, summarised: bool) -> Near:
        """What a token reads around itself.

        Args:
          summarised: whether the sequence has summaries among its sinks.
        """
        if summarised or self.block == 0:
            return Near(1, self.window)
        return Near(self.block, -(-self.window // self.block))


def sliding_sink_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array | None = None,
    sinks: Sinks | None = None,
    *,
    options: SlidingSinkOptions,
) -> jax.Array:
    """Softmax attention to the window, sinks and summaries; see `rf_jax.attention`.

    Derivatives are available in reverse mode only.

    Args:
      query, key, value: [B, S, nh, hd], of the same tokens.
      key_lengths: [B], the sinks included.
      sinks: the sinks; None if there are none.
      options: window and blocks.

    Returns:
      [B, S, nh, hd]; the rows of tokens beyond the lengths are finite and otherwise undefined.
    """
    batch, length = query.shape[:2]
    near = options.near(sinks is not None and sinks.summarised)
    if -(-length // near.block) <= near.reach + 1:  # everything is in the window
        return auto_attention(query, key, value, key_lengths)
    if key_lengths is None:
        key_lengths = jnp.full((batch,), length, jnp.int32)
    if sinks is None:
        sinks = Sinks(jnp.zeros((batch,), jnp.int32), 0)
    most = min(sinks.most, length)
    is_sink = jnp.arange(most) < sinks.lengths[:, None]
    wide = jnp.promote_types(key.dtype, jnp.float32)
    shared = [Shared(key[:, :most], value[:, :most], jnp.where(is_sink, 0, -jnp.inf).astype(wide))]
    if near.block > 1:
        shared.append(block_summaries(key, value, sinks.lengths, key_lengths, near.block))
    shared = Shared(*(jnp.concatenate(parts, 1) for parts in zip(*shared, strict=True)))
    arrays = query, key, value, key_lengths, sinks.lengths
    out = window_attention(*arrays, near, shared, num_placeless=most)
    if most == 0:
        return out
    from_sinks = auto_attention(query[:, :most], key, value, key_lengths)
    head = jnp.where(is_sink[..., None, None], from_sinks, out[:, :most])
    return jnp.concatenate([head, out[:, most:]], axis=1)


def sliding_sink_flops(
    queries: int,
    keys: int,
    width: int,
    num_heads: int,
    options: SlidingSinkOptions,
    sinks: Sinks | None = None,
) -> float:
    """Floating-point operations of the pairs that are read, of `keys` tokens and sinks."""
    num_sinks = 0 if sinks is None else sinks.most
    block, reach = options.near(sinks is not None and sinks.summarised)
    first, last = num_sinks // block, -(-keys // block)  # blocks that are not sinks alone
    sizes = [min((i + 1) * block, keys) - max(i * block, num_sinks) for i in range(first, last)]
    read = sum(
        size * (sum(sizes[max(i - reach, 0) : i + reach + 1])) for i, size in enumerate(sizes)
    )
    if block > 1:
        blocks = len(sizes)
        beyond = (blocks - min(i + reach + 1, blocks) + max(i - reach, 0) for i in range(blocks))
        read += sum(size * n for size, n in zip(sizes, beyond, strict=True))
    return 4 * (num_sinks * keys + (keys - num_sinks) * num_sinks + read) * width


SLIDING_SINK = Attention(
    "sliding_sink",
    sliding_sink_attention,
    options=SlidingSinkOptions(),
    rows_per_device=True,
    token_order=True,
    self_only=True,
    reads_sinks=True,
    flops=sliding_sink_flops,
)
