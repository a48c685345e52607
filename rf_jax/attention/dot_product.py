"""Exact attention in plain XLA with bounded memory: an online softmax over blocks of keys.

The running maximum and sum are those of Milakov and Gimelshein, arXiv 1805.02867. No more scores
than those of one block exist at a time, so 65,536 tokens need no matrix of 65,536 x 65,536. On a
CPU a block's scores stay in cache, and blocks beyond the lengths are skipped. On
GPUs blocks are large and none is skipped, because the device would wait for the host at every
condition. The gradient computes each block of scores again from the log-sum-exp, as
FlashAttention-2 does (Dao 2023, arXiv 2307.08691, section 3.1), because what XLA derives from the
loop stores the loop's state at every block.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.attention.exact import Kernels, attend, by_platform, weights_gradient_mean
from rf_jax.attention.registry import Attention
from rf_jax.precision import float32_product

CPU_QUERIES, CPU_KEYS = 256, 1024
"""Largest number of queries and keys per block on CPUs."""

GPU_KEYS = 8192
"""Largest number of keys per block on GPUs."""

GPU_SCORES = 2**26
"""About the largest number of scores at a time on GPUs: 256 MiB in float32."""

_LOWEST = -1e30
"""Start of the running maximum. It is finite, so that rows without keys stay finite."""


class Blocks(NamedTuple):
    """How sequences are cut: the largest numbers per block, and whether blocks are skipped."""

    queries: int
    keys: int
    skip: bool


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
    return attend(KERNELS, query.shape[-1] ** -0.5, query, key, value, key_lengths)


def cpu_blocks(query, key):
    """The `Blocks` for CPUs."""
    return Blocks(CPU_QUERIES, CPU_KEYS, skip=True)


def gpu_blocks(query, key):
    """The `Blocks` for GPUs."""
    batch, num_keys, num_heads, _ = key.shape
    keys = min(num_keys, GPU_KEYS)
    queries = GPU_SCORES // (batch * num_heads * keys)
    return Blocks(max(queries, CPU_QUERIES), keys, skip=False)


def forward(query, key, value, key_lengths, *, scale, blocks):
    """See `Kernels`.

    Args:
      blocks: gives the `Blocks` for query and key.
    """
    sizes = blocks(query, key)
    keys, values = (split_blocks(x, sizes.keys) for x in (key, value))

    def rows(query):
        return _attend(query, keys, values, key_lengths, scale, sizes.skip)

    out, log_sum_exp = lax.map(rows, split_blocks(query, sizes.queries))
    return join_blocks(out, query.shape[1]), _join_statistics(log_sum_exp, query.shape[1])


def backward(
    query, key, value, key_lengths, out, log_sum_exp, d_out, d_log_sum_exp, *, scale, blocks
):
    """See `Kernels`, and `forward` for `blocks`."""
    sizes = blocks(query, key)
    keys, values = (split_blocks(x, sizes.keys) for x in (key, value))
    inner = weights_gradient_mean(out, d_out, d_log_sum_exp)
    by_query = (
        *(split_blocks(x, sizes.queries) for x in (query, d_out)),
        *(_split_statistics(x, sizes.queries) for x in (log_sum_exp, inner)),
    )
    dtype = inner.dtype

    def key_step(query_gradients, block):
        start, key, value = block
        zeros = jnp.zeros(key.shape, dtype), jnp.zeros(value.shape, dtype)

        def query_step(totals, rows):
            query, rows_gradient, log_sum, rows_inner = rows
            weights = jnp.exp(_scores(query, key, start, key_lengths, scale) - log_sum)
            change = _product("bhqd,bhkd->bhqk", rows_gradient, value) - rows_inner
            change = (weights * change * scale).astype(key.dtype)
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

        needed = not sizes.skip or _needed(keys, start, key_lengths)
        return _run_if(needed, update, skip, query_gradients)

    start = jnp.zeros(by_query[0].shape, dtype)
    d_queries, d_blocks = lax.scan(key_step, start, (_starts(keys), keys, values))
    joined = (
        join_blocks(x, like.shape[1])
        for x, like in zip((d_queries, *d_blocks), (query, key, value), strict=True)
    )
    return tuple(x.astype(query.dtype) for x in joined)


def _kernels(blocks):
    return Kernels(*(functools.partial(f, blocks=blocks) for f in (forward, backward)))


CPU_KERNELS, GPU_KERNELS = _kernels(cpu_blocks), _kernels(gpu_blocks)
KERNELS = by_platform(cpu=CPU_KERNELS, default=GPU_KERNELS)


def _attend(query, keys, values, key_lengths, scale, skip):
    """Attention of queries [B, nh, q, hd] to all blocks of keys.

    Returns:
      the result [B, nh, q, hd], and the logarithm of the sum of exponentials [B, nh, q, 1]; 0 where
      there are no keys.
    """

    def update(carry, block):
        maximum, total, out = carry
        start, key, value = block
        scores = _scores(query, key, start, key_lengths, scale)
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
        needed = not skip or _needed(keys, block[0], key_lengths)
        return _run_if(needed, update, lambda carry, _: carry, carry, block), None

    (maximum, total, out), _ = lax.scan(step, carry, (_starts(keys), keys, values))
    log_sum = jnp.where(total > 0, maximum + jnp.log(total), 0)
    return (out / jnp.where(total > 0, total, 1)).astype(query.dtype), log_sum


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The einsum of operands of one type, in float32 at least."""
    return jnp.einsum(equation, a, b, **float32_product(a.dtype))


def _scores(query, key, start, key_lengths, scale):
    """Scores [B, nh, q, k] of queries and a block of keys, -inf beyond the lengths."""
    scores = _product("bhqd,bhkd->bhqk", query, key) * scale
    valid = start + jnp.arange(key.shape[2]) < key_lengths[:, None]  # (B, k)
    return jnp.where(valid[:, None, None], scores, -jnp.inf)


def _split_statistics(x, largest):
    """[B, nh, T] -> [blocks, B, nh, t, 1]."""
    return split_blocks(x.transpose(0, 2, 1)[..., None], largest)


def _join_statistics(x, length):
    """Undoes `_split_statistics`: [blocks, B, nh, t, 1] -> [B, nh, length]."""
    return join_blocks(x, length)[..., 0].transpose(0, 2, 1)


def _starts(keys):
    """The position of the first key of each block."""
    return jnp.arange(keys.shape[0]) * keys.shape[3]


def _needed(keys: jax.Array, start: jax.Array, key_lengths: jax.Array) -> bool | jax.Array:
    """False for a block of keys that lies beyond the lengths of all rows."""
    return len(keys) == 1 or start < key_lengths.max()


def _run_if(needed, run, skip, *arguments):
    """Calls `run`, or `skip` if it is not needed; there is no condition if that is known."""
    return run(*arguments) if needed is True else lax.cond(needed, run, skip, *arguments)


DOT_PRODUCT = Attention("dot_product", dot_product_attention, exact=True, rows_per_device=True)
