"""The pluggable attention functions.

An `AttentionFn` computes, for every query, a weighted mean of the values:

    attention_fn(query, key, value, key_lengths) -> [B, T, nh, hd]

    query:       [B, T, nh, hd], float32 or 16-bit
    key, value:  [B, S, nh, hd], the type of query; T and S may differ
    key_lengths: [B] int32: only the first key_lengths[b] keys of row b take part; None: all do.
                 A row of length 0 gives zeros.

Scores are query . key / sqrt(hd), statistics and sums in float32; the result has query's type.

To add one, write it in a file of its own here and name it in `_ATTENTION_FNS`. One that has
variables of its own is a Linen module with that `__call__`; it is passed around as its constructor
(a class or a functools.partial of one) and made inside each layer by `bind_attention`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from rf_jax.attention.auto import auto_attention
from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.flash import flash_attention
from rf_jax.attention.performer import PerformerAttention, PerformerOptions
from rf_jax.errors import InputError

AttentionFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]

_ATTENTION_FNS: dict[str, Callable[..., Any]] = {
    "auto": auto_attention,
    "dot_product": dot_product_attention,
    "flash": flash_attention,
    "performer": PerformerAttention,
}

ATTENTION_NAMES = tuple(_ATTENTION_FNS)
"""auto: the fastest exact one of the device; performer approximates, the others are exact."""


def get_attention_fn(name: str, performer: PerformerOptions | None = None) -> Callable[..., Any]:
    """The attention function (or module constructor) of that name.

    Args:
      name: one of ATTENTION_NAMES.
      performer: options of "performer"; the others ignore them.

    Raises:
      InputError: an unknown name; lists them all.
    """
    if name not in _ATTENTION_FNS:
        raise InputError(f"attention: expected one of {', '.join(ATTENTION_NAMES)}, found {name!r}")
    if name == "performer":
        return functools.partial(PerformerAttention, performer or PerformerOptions())
    return _ATTENTION_FNS[name]


def bind_attention(attention_fn: Callable[..., Any]) -> AttentionFn:
    """Inside a compact Linen method: a module's constructor becomes its submodule "performer"."""
    constructor = getattr(attention_fn, "func", attention_fn)
    return attention_fn(name="performer") if inspect.isclass(constructor) else attention_fn


def parse_attention(names: str) -> tuple[str, str]:
    """Names of the view-independent and the view-dependent stage's attention from "a" or "a,b"."""
    stages = [name.strip() for name in names.split(",")]
    if len(stages) > 2:
        raise InputError(f'attention: expected "name" or "stage1,stage2", found {names!r}')
    return stages[0], stages[-1]
