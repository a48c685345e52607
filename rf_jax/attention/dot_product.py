"""Exact attention in plain XLA with bounded memory: an online softmax over blocks of keys.

The running maximum and sum are those of Milakov and Gimelshein, arXiv 1805.02867. No more than
QUERY_BLOCK x KEY_BLOCK scores per head exist at a time, so 65,536 tokens need no matrix of 65,536 x
65,536, and on a CPU the scores stay in cache. The gradient computes each block of scores again from
the logarithm of the softmax's sum, as FlashAttention-2 does (Dao 2023, arXiv 2307.08691, section
3.1), because what XLA derives from the loop stores the loop's state at every block.
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
    """softmax(query key^T / sqrt(hd)) value; see `rf_jax.attention` for the contract.

    Derivatives are available in reverse mode only.
    """
    return dot_product_attention_with_log_sum_exp(query, key, value, key_lengths)[0]


def dot_product_attention_with_log_sum_exp(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """`dot_product_attention`, and the log-sum-exp of the scaled scores; both are differentiable.

    Returns:
      out [B, T, nh, hd] and log_sum_exp [B, nh, T] in float32 at least, both 0 in rows without
      keys.
    """
    if key_lengths is None:
        key_lengths = jnp.full((key.shape[0],), key.shape[1], jnp.int32)
    blocks = split_blocks(query, QUERY_BLOCK), *(split_blocks(x, KEY_BLOCK) for x in (key, value))
    out, log_sums = (join_blocks(x, query.shape[1]) for x in _attention(*blocks, key_lengths))
    return out, log_sums[..., 0].transpose(0, 2, 1)


@jax.custom_vjp
def _attention(queries, keys, values, key_lengths):
    """Attention of blocks [blocks, B, nh, t, hd] of queries to blocks of keys and values.

    Returns:
      the result, and the log-sum-exps of the scores [blocks, B, nh, t, 1].
    """
    return _forward(queries, keys, values, key_lengths)[0]


def _forward(queries, keys, values, key_lengths):
    """Returns the results, and what `_backward` reads: all arrays and the results."""
    out, log_sums = lax.map(lambda query: _attend(query, keys, values, key_lengths), queries)
    return (out, log_sums), (queries, keys, values, key_lengths, out, log_sums)


def _attend(query, keys, values, key_lengths):
    """Attention of queries [B, nh, q, hd] to all blocks of keys.

    Returns:
      the result [B, nh, q, hd], and the logarithm of the sum of exponentials [B, nh, q, 1]; 0 where
      there are no keys.
    """

    def update(carry, block):
        maximum, total, out = carry
        start, key, value = block
        scores = _scores(query, key, start, key_lengths)
        new_maximum = jnp.maximum(maximum, scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - new_maximum)
        shrink = jnp.exp(maximum - new_maximum)
        total = total * shrink + weights.sum(-1, keepdims=True)
        added = _product("bhqk,bhkd->bhqd", weights.astype(value.dtype), value)
        return new_maximum, total, out * shrink + added

    dtype = jnp.promote_types(query.dtype, jnp.float32)
    statistics = (*query.shape[:-1], 1)
    carry = (
        jnp.full(statistics, _LOWEST, dtype),
        jnp.zeros(statistics, dtype),
        jnp.zeros(query.shape, dtype),
    )

    def step(carry, block):
        needed = _needed(keys, block[0], key_lengths)
        return lax.cond(needed, update, lambda carry, _: carry, carry, block), None

    (maximum, total, out), _ = lax.scan(step, carry, (_starts(keys), keys, values))
    log_sum = jnp.where(total > 0, maximum + jnp.log(total), 0)
    return (out / jnp.where(total > 0, total, 1)).astype(query.dtype), log_sum


def _backward(saved, gradients):
    """Gradients of the queries, keys and values, from those of the results."""
    queries, keys, values, key_lengths, out, log_sums = saved
    gradient, log_sums_gradient = gradients
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    # The gradient of the softmax needs this sum per query (FlashAttention-2, algorithm 2).
    inner = (gradient.astype(dtype) * out.astype(dtype)).sum(-1, keepdims=True)
    inner -= log_sums_gradient
    by_query = queries, gradient, log_sums, inner

    def key_step(query_gradients, block):
        start, key, value = block
        zeros = jnp.zeros(key.shape, dtype), jnp.zeros(value.shape, dtype)

        def query_step(totals, rows):
            query, rows_gradient, log_sum, rows_inner = rows
            weights = jnp.exp(_scores(query, key, start, key_lengths) - log_sum)
            change = _product("bhqd,bhkd->bhqk", rows_gradient, value) - rows_inner
            change = (weights * change * query.shape[-1] ** -0.5).astype(key.dtype)
            added = (
                _product("bhqk,bhqd->bhkd", change, query),
                _product("bhqk,bhqd->bhkd", weights.astype(value.dtype), rows_gradient),
            )
            totals = jax.tree.map(jnp.add, totals, added)
            return totals, _product("bhqk,bhkd->bhqd", change, key)

        def update(query_gradients):
            totals, added = lax.scan(query_step, zeros, by_query)
            return query_gradients + added, totals

        def skip(query_gradients):
            return query_gradients, zeros

        return lax.cond(_needed(keys, start, key_lengths), update, skip, query_gradients)

    start_gradients = jnp.zeros(queries.shape, dtype)
    query_gradients, others = lax.scan(key_step, start_gradients, (_starts(keys), keys, values))
    gradients = zip((query_gradients, *others), (queries, keys, values), strict=True)
    return *(x.astype(like.dtype) for x, like in gradients), None


_attention.defvjp(_forward, _backward)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The einsum of operands of one type, in float32 at least."""
    return jnp.einsum(equation, a, b, **float32_product(a.dtype))


def _scores(query, key, start, key_lengths):
    """Scores [B, nh, q, k] of queries and a block of keys, -inf beyond the lengths."""
    scores = _product("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
    valid = start + jnp.arange(key.shape[2]) < key_lengths[:, None]  # (B, k)
    return jnp.where(valid[:, None, None], scores, -jnp.inf)


def _starts(keys):
    """The position of the first key of each block."""
    return jnp.arange(keys.shape[0]) * keys.shape[3]


def _needed(keys: jax.Array, start: jax.Array, key_lengths: jax.Array) -> bool | jax.Array:
    """False for a block of keys that lies beyond the lengths of all rows."""
    return len(keys) == 1 or start < key_lengths.max()


DOT_PRODUCT = Attention("dot_product", dot_product_attention, exact=True, rows_per_device=True)
