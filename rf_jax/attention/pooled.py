"""Attention inside of blocks of sorted tokens, and to one mean token of every other block.

This is the attention of the multi-scale patch transformer (MSPT, arXiv 2512.01738) inside of one
layer: of N tokens, sorted along a curve through space and cut into blocks of b, each reads its own
block exactly, and the others through the means of their keys and values; N (b + N / b) pairs per
head. Unlike there, a mean has the weight of all its tokens, and the block of a query is left out
of its means, so that every token is read exactly once.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rf_jax.attention.auto import auto_attention
from rf_jax.attention.registry import Attention
from rf_jax.attention.summaries import block_summaries
from rf_jax.attention.window import Near, window_attention
from rf_jax.schema import Size, check_fields


@dataclasses.dataclass(frozen=True)
class PooledOptions:
    """Options of the attention.

    Attributes:
      block: tokens of a block.
    """

    block: Size = 256

    def __post_init__(self):
        check_fields(self)


def pooled_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array | None = None,
    *,
    options: PooledOptions,
) -> jax.Array:
    """Softmax attention to a block and to the means of others; see `rf_jax.attention`.

    Derivatives are available in reverse mode only.

    Args:
      query, key, value: [B, S, nh, hd], of the same tokens.
      key_lengths: [B].
      options: the size of blocks.

    Returns:
      [B, S, nh, hd]; the rows of tokens beyond the lengths are finite and otherwise undefined.
    """
    batch, length = query.shape[:2]
    if length <= options.block:
        return auto_attention(query, key, value, key_lengths)
    if key_lengths is None:
        key_lengths = jnp.full((batch,), length, jnp.int32)
    starts = jnp.zeros((batch,), jnp.int32)
    means = block_summaries(key, value, starts, key_lengths, options.block)
    near = Near(options.block, reach=0)
    return window_attention(query, key, value, key_lengths, starts, near, means)


def pooled_flops(
    queries: int, keys: int, width: int, num_heads: int, options: PooledOptions
) -> float:
    """Floating-point operations of the pairs that are read, of tokens that attend to themselves."""
    whole, rest = divmod(keys, options.block)
    others = whole + (rest > 0) - 1
    return 4 * (whole * options.block**2 + rest**2 + keys * others) * width


POOLED = Attention(
    "pooled",
    pooled_attention,
    options=PooledOptions(),
    rows_per_device=True,
    token_order=True,
    self_only=True,
    flops=pooled_flops,
)
