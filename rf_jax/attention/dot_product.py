"""Exact attention in plain XLA with bounded memory: an online softmax over blocks of keys.

The running maximum and sum are those of Milakov and Gimelshein, arXiv 1805.02867. No more than
QUERY_BLOCK x KEY_BLOCK scores per head exist at a time, so 65,536 tokens need no matrix of 65,536 x
65,536, and on a CPU the scores stay in cache.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.attention.registry import Attention
from rf_jax.precision import float32_product

QUERY_BLOCK = 256
"""Largest number of queries per block."""

KEY_BLOCK = 1024
"""Largest number of keys per block."""

_LOWEST = -1e30
"""Start of the running maximum. It is finite, so that rows without keys stay finite."""


def dot_product_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """softmax(query key^T / sqrt(hd)) value; see `rf_jax.attention` for the contract."""
    if key_lengths is None:
        key_lengths = jnp.full((key.shape[0],), key.shape[1], jnp.int32)
    query_blocks = split_blocks(query, QUERY_BLOCK)
    key_blocks, value_blocks = split_blocks(key, KEY_BLOCK), split_blocks(value, KEY_BLOCK)

    # Without the checkpoint the gradient would store the scores of all blocks.
    @jax.checkpoint
    def attend(block):
        return _attend_to_all(block, key_blocks, value_blocks, key_lengths)

    return join_blocks(lax.map(attend, query_blocks), query.shape[1])


def _attend_to_all(query, key_blocks, value_blocks, key_lengths):
    """Attention of queries [B, nh, q, hd] to all blocks of keys.

    Skips the blocks that lie beyond the lengths of all rows.
    """
    product = float32_product(query.dtype)
    block_size = key_blocks.shape[3]

    def update(carry, start, key, value):
        maximum, total, out = carry
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, **product) * query.shape[-1] ** -0.5
        valid = start + jnp.arange(block_size) < key_lengths[:, None]  # (B, k)
        scores = jnp.where(valid[:, None, None], scores, -jnp.inf)
        # The maximum cancels in the result, so its gradient is zero.
        block_maximum = lax.stop_gradient(scores.max(-1, keepdims=True))
        new_maximum = jnp.maximum(maximum, block_maximum)
        weights = jnp.exp(scores - new_maximum)
        shrink = jnp.exp(maximum - new_maximum)
        added = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value, **product)
        total = total * shrink + weights.sum(-1, keepdims=True)
        return new_maximum, total, out * shrink + added

    def step(carry, block):
        start, key, value = block
        needed = start < key_lengths.max()
        return lax.cond(needed, update, lambda carry, *_: carry, carry, start, key, value), None

    statistics, dtype = (*query.shape[:-1], 1), product["preferred_element_type"]
    carry = (
        jnp.full(statistics, _LOWEST, dtype),
        jnp.zeros(statistics, dtype),
        jnp.zeros(query.shape, dtype),
    )
    starts = jnp.arange(key_blocks.shape[0]) * block_size
    (_, total, out), _ = lax.scan(step, carry, (starts, key_blocks, value_blocks))
    return (out / jnp.where(total > 0, total, 1)).astype(query.dtype)


DOT_PRODUCT = Attention("dot_product", dot_product_attention, exact=True, rows_per_device=True)
