"""The fastest exact attention of the device."""

import jax
import jax.numpy as jnp

from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.registry import Attention

CUDNN_LENGTH_MULTIPLE = 128
"""cuDNN's backward has given NaN on Hopper for other lengths (pytorch issue 196678)."""

CUDNN_HEAD_DIM = 128


def auto_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """cuDNN for 16-bit types on NVIDIA GPUs, else `dot_product`; see `rf_jax.attention`."""
    head_dim = query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if jax.default_backend() == "gpu" and half and head_dim % 8 == 0 and head_dim <= CUDNN_HEAD_DIM:
        return _cudnn_attention(query, key, value, key_lengths)
    return dot_product_attention(query, key, value, key_lengths)


def _cudnn_attention(query, key, value, key_lengths):
    """Lengths, not a mask: cuDNN turns a mask into a score-sized bias."""
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
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % CUDNN_LENGTH_MULTIPLE), (0, 0), (0, 0)))


AUTO = Attention("auto", auto_attention, exact=True, rows_per_device=True)
