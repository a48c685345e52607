"""The fastest exact attention of the device."""

import jax
import jax.numpy as jnp

from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.registry import Attention

CUDNN_LENGTH_MULTIPLE = 128
"""Sequences are padded to multiples of this for cuDNN, whose backward pass has given NaN on Hopper
for other lengths (pytorch issue 196678)."""

CUDNN_HEAD_DIM = 128
"""Largest head width that is given to cuDNN."""


def auto_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """Uses cuDNN for 16-bit types on GPUs, and otherwise `dot_product_attention`.

    See `rf_jax.attention` for the contract.
    """
    head_dim = query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if jax.default_backend() == "gpu" and half and head_dim % 8 == 0 and head_dim <= CUDNN_HEAD_DIM:
        return _cudnn_attention(query, key, value, key_lengths)
    return dot_product_attention(query, key, value, key_lengths)


def _cudnn_attention(query, key, value, key_lengths):
    """Passes lengths and not a mask, which cuDNN would turn into a bias as large as the scores."""
    batch, num_queries = query.shape[:2]
    if key_lengths is None:
        key_lengths = jnp.full((batch,), key.shape[1], jnp.int32)
    query, key, value = (_pad(x) for x in (query, key, value))
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=jnp.full((batch,), num_queries, jnp.int32),
        key_value_seq_lengths=key_lengths,
        implementation="cudnn",
    )
    return jnp.where((key_lengths > 0)[:, None, None, None], out[:, :num_queries], 0)


def _pad(x):
    """Zero-pads the sequences of [B, T, nh, hd] to a multiple of `CUDNN_LENGTH_MULTIPLE`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % CUDNN_LENGTH_MULTIPLE), (0, 0), (0, 0)))


AUTO = Attention("auto", auto_attention, exact=True, rows_per_device=True)
