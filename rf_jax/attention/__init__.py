"""The pluggable attention functions.

An `AttentionFn` computes, for every query, a weighted mean of the values:

    attention_fn(query, key, value, key_lengths) -> [B, T, nh, hd]

    query:       [B, T, nh, hd], float32 or 16-bit
    key, value:  [B, S, nh, hd], the type of query; T and S may differ
    key_lengths: [B] int32: only the first key_lengths[b] keys of row b take part; None: all do.
                 A row of length 0 gives zeros.

Scores are query . key / sqrt(hd), statistics and sums in float32; the result has query's type.

To add one, write it in a file of its own that ends in an `Attention` (see
`rf_jax.attention.registry`), and name that in `ATTENTIONS`. Configurations, training, sharding,
conversion and the command lines take it from there.
"""

from typing import Any

from rf_jax.attention.auto import AUTO
from rf_jax.attention.dot_product import DOT_PRODUCT
from rf_jax.attention.flash import FLASH
from rf_jax.attention.performer import PERFORMER
from rf_jax.attention.registry import Attention, AttentionFn
from rf_jax.errors import InputError

__all__ = ["ATTENTIONS", "Attention", "AttentionFn", "get_attention", "parse_attention"]

ATTENTIONS = {attention.name: attention for attention in (AUTO, DOT_PRODUCT, FLASH, PERFORMER)}


def get_attention(name: str, options: tuple[Any, ...] = ()) -> Attention:
    """The attention function of that name, with its options among those given.

    Raises:
      InputError: an unknown name; lists them all.
    """
    if name not in ATTENTIONS:
        raise InputError(f"attention: expected one of {', '.join(ATTENTIONS)}, found {name!r}")
    return ATTENTIONS[name].with_options(options)


def parse_attention(names: str) -> tuple[str, str]:
    """Names of the view-independent and the view-dependent stage's attention from "a" or "a,b"."""
    stages = [name.strip() for name in names.split(",")]
    if len(stages) > 2:
        raise InputError(f'attention: expected "name" or "stage1,stage2", found {names!r}')
    return stages[0], stages[-1]
