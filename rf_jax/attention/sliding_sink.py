"""Attention to a sliding window and to sinks, for sequences in which neighbours are near.

Sinks are the first tokens of a sequence (registers, lights, summaries). They read all tokens and
all tokens read them, as in StreamingLLM (arXiv 2309.17453). The other tokens read the sinks and
those within `window` places of themselves, so they should be sorted along a curve through space.
With S sinks, n other tokens and a window w a head scores S (S + n) + n S + n (2w + 1) pairs.

The result is put together from three softmaxes, each with bounded memory:

    sinks to all tokens          dense
    all tokens to the sinks      dense
    all tokens to their window   `rf_jax.attention.window`, in blocks

The last two are merged by their log-sum-exps, whose gradient cuDNN does not take. So the second
uses `dot_product`, and the first the fastest exact function of the device.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rf_jax.attention.auto import auto_attention
from rf_jax.attention.dot_product import dot_product_attention_with_log_sum_exp
from rf_jax.attention.registry import Attention, Sinks
from rf_jax.attention.window import window_attention
from rf_jax.schema import Size, check_fields

_NO_KEYS = -1e30
"""The log-sum-exp of an empty row when rows are merged."""


@dataclasses.dataclass(frozen=True)
class SlidingSinkOptions:
    """Options of the attention.

    Attributes:
      window: how many places before and after itself a token that is no sink reads.
    """

    window: Size = 256

    def __post_init__(self):
        check_fields(self)


def sliding_sink_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array | None = None,
    sinks: Sinks | None = None,
    *,
    options: SlidingSinkOptions,
) -> jax.Array:
    """Softmax attention to the window and the sinks; see `rf_jax.attention` for the contract.

    Derivatives are available in reverse mode only.

    Args:
      query, key, value: [B, S, nh, hd], of the same tokens.
      key_lengths: [B], the sinks included.
      sinks: the sinks; None if there are none.
      options: the window.

    Returns:
      [B, S, nh, hd]; the rows of tokens beyond the lengths are finite and otherwise undefined.
    """
    batch, length = query.shape[:2]
    if length <= options.window + 1:  # everything is in the window
        return auto_attention(query, key, value, key_lengths)
    if key_lengths is None:
        key_lengths = jnp.full((batch,), length, jnp.int32)
    if sinks is None or sinks.most == 0:
        nothing = jnp.zeros((batch,), jnp.int32)
        return window_attention(query, key, value, key_lengths, nothing, options.window)[0]
    most = min(sinks.most, length)
    in_window = window_attention(query, key, value, key_lengths, sinks.lengths, options.window)
    in_sinks = dot_product_attention_with_log_sum_exp(
        query, key[:, :most], value[:, :most], sinks.lengths
    )
    out = _merged(in_window, in_sinks, sinks.lengths)
    from_sinks = auto_attention(query[:, :most], key, value, key_lengths)
    is_sink = jnp.arange(most) < sinks.lengths[:, None]
    head = jnp.where(is_sink[..., None, None], from_sinks, out[:, :most])
    return jnp.concatenate([head, out[:, most:]], axis=1)


def _merged(in_window, in_sinks, sink_lengths):
    """One softmax [B, S, nh, hd] of two over different keys, given with their log-sum-exps."""
    (out, log_sum), (sink_out, sink_log_sum) = in_window, in_sinks
    sink_log_sum = jnp.where(sink_lengths[:, None, None] > 0, sink_log_sum, _NO_KEYS)
    share = jax.nn.sigmoid(sink_log_sum - log_sum).transpose(0, 2, 1)[..., None]
    wide = share.dtype
    merged = out.astype(wide) * (1 - share) + sink_out.astype(wide) * share
    return merged.astype(out.dtype)


def sliding_sink_flops(
    queries: int,
    keys: int,
    width: int,
    num_heads: int,
    options: SlidingSinkOptions,
    num_sinks: int = 0,
) -> float:
    """Floating-point operations of the pairs that are read, of `keys` tokens and sinks."""
    normal = keys - num_sinks
    reach = min(options.window, max(normal - 1, 0))
    window = normal * (2 * reach + 1) - reach * (reach + 1)
    return 4 * (num_sinks * keys + normal * num_sinks + window) * width


SLIDING_SINK = Attention(
    "sliding_sink",
    sliding_sink_attention,
    options=SlidingSinkOptions(),
    rows_per_device=True,
    token_order=True,
    reads_sinks=True,
    flops=sliding_sink_flops,
)
