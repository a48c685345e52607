"""The pluggable attention functions.

An `AttentionFn` computes a weighted mean of the values for every query:

    attention_fn(query, key, value, key_lengths) -> [B, T, nh, hd]

    query:       [B, T, nh, hd], float32 or 16-bit
    key, value:  [B, S, nh, hd], in the type of query; T and S may differ
    key_lengths: [B] int32, or None. Only the first key_lengths[b] keys of row b take part; with
                 None, all keys do. A row of length 0 gives zeros. Keys and values must be finite,
                 also beyond the lengths.

A function that is declared to read sinks takes these as its fifth argument, `Sinks` or None: they
are the first tokens of a sequence, and treated apart.

The scores are query . key / sqrt(hd). Statistics and sums are float32, and the result has the type
of query.

To add an attention function:

1. Write it in a file of its own in this folder: a function as above, or a Linen module whose
   `__call__` is one if it needs variables. `dot_product.py` is an example of the former,
   `performer.py` of the latter, with options.
2. End the file with an `Attention`, which says what the function needs; for a function without
   variables and options `NEAREST = Attention("nearest", nearest_attention)` is enough.
   `rf_jax.attention.registry` lists the fields.
3. Add that `Attention` to `ATTENTIONS` below.

Configurations, training, sharding, checkpoints, the conversion of weights and the command lines
then know it by its name.
"""

from typing import Any

from rf_jax.attention.auto import AUTO
from rf_jax.attention.dot_product import DOT_PRODUCT
from rf_jax.attention.flash import FLASH
from rf_jax.attention.latent import LATENT
from rf_jax.attention.performer import PERFORMER
from rf_jax.attention.pooled import POOLED
from rf_jax.attention.registry import Attention, AttentionFn, Sinks
from rf_jax.attention.sliding_sink import SLIDING_SINK
from rf_jax.errors import InputError

__all__ = ["ATTENTIONS", "Attention", "AttentionFn", "Sinks", "get_attention", "parse_attention"]

ATTENTIONS = {
    attention.name: attention
    for attention in (AUTO, DOT_PRODUCT, FLASH, PERFORMER, SLIDING_SINK, POOLED, LATENT)
}


def get_attention(name: str, options: tuple[Any, ...] = ()) -> Attention:
    """The attention function of that name.

    Args:
      name: a key of `ATTENTIONS`.
      options: options of any attention functions; the function takes its own from them, and keeps
        its defaults if there are none.

    Raises:
      InputError: the name is unknown; the message lists all names.
    """
    if name not in ATTENTIONS:
        raise InputError(f"attention: expected one of {', '.join(ATTENTIONS)}, found {name!r}")
    return ATTENTIONS[name].with_options(options)


def parse_attention(names: str) -> tuple[str, str]:
    """The names of both stages' attention functions in "both" or "first,second".

    One name of a function for tokens that attend to themselves is that of the first stage; the
    second stage is then exact.

    Returns:
      the names for the view-independent and the view-dependent stage; unchecked.

    Raises:
      InputError: there are more than two names.
    """
    stages = [name.strip() for name in names.split(",")]
    if len(stages) > 2:
        raise InputError(f'attention: expected "name" or "stage1,stage2", found {names!r}')
    first, second = stages[0], stages[-1]
    if len(stages) == 1 and first in ATTENTIONS and ATTENTIONS[first].self_only:
        second = AUTO.name
    return first, second
