"""Flash-attention kernels in portable Pallas: Triton on GPUs, interpreted on CPUs.

Queries, keys and values are [B, T or S, nh, hd]. T and S are multiples of 128 and hd is 64 or 128,
as `flash` pads them. Statistics and accumulators are float32, and exponentials are to base 2.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rf_jax.precision import float32_product

LOG2_E = math.log2(math.e)


def forward(query, key, value, key_lengths, scale, interpret=False):
    """Attention and its log-sum-exp.

    Args:
      query: [B, T, nh, hd].
      key, value: [B, S, nh, hd].
      key_lengths: [B] int32.
      scale: factor of the scores.
      interpret: whether to interpret the kernel, which is how a CPU runs it.

    Returns:
      out [B, T, nh, hd] and log_sum_exp [B, nh, T] float32 (0 where the length is 0).
    """
    batch, num_queries, num_heads, head_dim = query.shape
    block_q, block_kv = _block_sizes(query.dtype)
    heads, whole, rows, lengths = _specs(block_q, key.shape[1], head_dim)
    return _call(
        interpret,
        functools.partial(_forward_kernel, scale=scale, block_kv=block_kv),
        grid=(num_queries // block_q, num_heads, batch),
        in_specs=[lengths, heads, whole, whole],
        out_specs=[heads, rows],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, num_heads, num_queries), jnp.float32),
        ],
    )(key_lengths, query, key, value)


def backward(query, key, value, key_lengths, scale, log_sum_exp, delta, d_out, interpret=False):
    """Gradients of query, key and value.

    Args:
      query, key, value, key_lengths, scale, interpret: the arguments of `forward`.
      log_sum_exp: [B, nh, T] float32, its second result.
      delta: [B, nh, T] float32, the row sums of d_out * out, less the gradient of log_sum_exp.
      d_out: [B, T, nh, hd], the gradient of the first result.
    """
    batch, num_queries, num_heads, head_dim = query.shape
    num_keys = key.shape[1]
    block_q, block_kv = _block_sizes(query.dtype)
    heads, whole_keys, rows, lengths = _specs(block_q, num_keys, head_dim)
    d_query = _call(
        interpret,
        functools.partial(_d_query_kernel, scale=scale, block_kv=block_kv),
        grid=(num_queries // block_q, num_heads, batch),
        in_specs=[lengths, heads, whole_keys, whole_keys, rows, rows, heads],
        out_specs=heads,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
    )(key_lengths, query, key, value, log_sum_exp, delta, d_out)

    heads, whole_queries, _, lengths = _specs(block_kv, num_queries, head_dim)
    whole_rows = pl.BlockSpec((None, None, num_queries), lambda i, h, b: (b, h, 0))
    d_key, d_value = _call(
        interpret,
        functools.partial(_d_key_value_kernel, scale=scale, block_q=block_q),
        grid=(num_keys // block_kv, num_heads, batch),
        in_specs=[lengths, whole_queries, heads, heads, whole_rows, whole_rows, whole_queries],
        out_specs=[heads, heads],
        out_shape=[jax.ShapeDtypeStruct(key.shape, key.dtype)] * 2,
    )(key_lengths, query, key, value, log_sum_exp, delta, d_out)
    return d_query, d_key, d_value


def _block_sizes(dtype) -> tuple[int, int]:
    """Numbers of queries and of keys per block that fit registers and shared memory at hd 128."""
    return (32, 32) if dtype == jnp.float32 else (128, 64)


def _specs(block, length, head_dim):
    """Block specifications for the grid (block, head, batch).

    Returns:
      those of a block of rows of a head, of all `length` rows of a head, of the statistics of a
      block of rows, and of the number of valid keys.
    """
    return (
        pl.BlockSpec((None, block, None, head_dim), lambda i, h, b: (b, i, h, 0)),
        pl.BlockSpec((None, length, None, head_dim), lambda i, h, b: (b, 0, h, 0)),
        pl.BlockSpec((None, None, block), lambda i, h, b: (b, h, i)),
        pl.BlockSpec((1,), lambda i, h, b: (b,)),
    )


def _call(interpret, kernel, **options):
    """A launcher of the kernel."""
    if interpret:
        return pl.pallas_call(kernel, interpret=True, **options)
    from jax.experimental.pallas import triton

    params = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(kernel, compiler_params=params, **options)


def _dot(a, b, contract):
    """Product of two matrices over one axis of each, (axis of a, axis of b), in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, **float32_product(a.dtype))


def _over_key_blocks(length, block_kv, step, carry):
    """Runs `step(start, masked, carry)` over the blocks of keys that begin below the length.

    Only a block that the length cuts is masked.
    """
    whole = length // block_kv
    carry = lax.fori_loop(0, whole, lambda j, c: step(j * block_kv, False, c), carry)
    blocks = pl.cdiv(length, block_kv)
    return lax.fori_loop(whole, blocks, lambda j, c: step(j * block_kv, True, c), carry)


def _key_block(key_ref, value_ref, start, block_kv, masked, length):
    """Keys and values [k, hd] from `start` on, and a mask [k] of the valid ones if `masked`."""
    rows = pl.ds(start, block_kv)
    key, value = key_ref[rows, :], value_ref[rows, :]
    if not masked:
        return key, value, None
    valid = start + jnp.arange(block_kv) < length
    # A weight of 0 would not hide a value that is not finite.
    return key, jnp.where(valid[:, None], value, jnp.zeros_like(value)), valid


def _forward_kernel(
    length_ref, query_ref, key_ref, value_ref, out_ref, lse_ref, *, scale, block_kv
):
    length, query = length_ref[0], query_ref[...]

    def step(start, masked, carry):
        maximum, total, out = carry
        key, value, valid = _key_block(key_ref, value_ref, start, block_kv, masked, length)
        scores = _dot(query, key, (1, 1)) * (scale * LOG2_E)
        if masked:
            scores = jnp.where(valid[None, :], scores, -jnp.inf)
        new_maximum = jnp.maximum(maximum, scores.max(axis=1))
        weights = jnp.exp2(scores - new_maximum[:, None])
        shrink = jnp.exp2(maximum - new_maximum)
        out = out * shrink[:, None] + _dot(weights.astype(value.dtype), value, (1, 0))
        return new_maximum, total * shrink + weights.sum(axis=1), out

    rows = query.shape[0]
    carry = (
        jnp.full((rows,), -jnp.inf, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros(query.shape, jnp.float32),
    )
    maximum, total, out = _over_key_blocks(length, block_kv, step, carry)
    safe = jnp.where(total > 0, total, 1.0)
    out_ref[...] = (out / safe[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(total > 0, (maximum + jnp.log2(safe)) / LOG2_E, 0.0)


def _d_query_kernel(
    length_ref,
    query_ref,
    key_ref,
    value_ref,
    lse_ref,
    delta_ref,
    d_out_ref,
    d_query_ref,
    *,
    scale,
    block_kv,
):
    length, query, d_out = length_ref[0], query_ref[...], d_out_ref[...]
    lse, delta = lse_ref[...] * LOG2_E, delta_ref[...]

    def step(start, masked, d_query):
        key, value, valid = _key_block(key_ref, value_ref, start, block_kv, masked, length)
        weights = jnp.exp2(_dot(query, key, (1, 1)) * (scale * LOG2_E) - lse[:, None])
        if masked:
            weights = jnp.where(valid[None, :], weights, 0.0)
            key = jnp.where(valid[:, None], key, jnp.zeros_like(key))
        d_scores = weights * (_dot(d_out, value, (1, 1)) - delta[:, None])
        return d_query + _dot(d_scores.astype(key.dtype), key, (1, 0))

    d_query = _over_key_blocks(length, block_kv, step, jnp.zeros(query.shape, jnp.float32))
    d_query_ref[...] = (d_query * scale).astype(d_query_ref.dtype)


def _d_key_value_kernel(
    length_ref,
    query_ref,
    key_ref,
    value_ref,
    lse_ref,
    delta_ref,
    d_out_ref,
    d_key_ref,
    d_value_ref,
    *,
    scale,
    block_q,
):
    length, key, value = length_ref[0], key_ref[...], value_ref[...]
    start = pl.program_id(0) * key.shape[0]
    valid = start + jnp.arange(key.shape[0]) < length
    value = jnp.where(valid[:, None], value, jnp.zeros_like(value))

    def step(i, carry):
        d_key, d_value = carry
        rows = pl.ds(i * block_q, block_q)
        query, d_out = query_ref[rows, :], d_out_ref[rows, :]
        lse, delta = lse_ref[rows] * LOG2_E, delta_ref[rows]
        weights = jnp.exp2(_dot(key, query, (1, 1)) * (scale * LOG2_E) - lse[None, :])
        weights = jnp.where(valid[:, None], weights, 0.0)
        d_value = d_value + _dot(weights.astype(d_out.dtype), d_out, (1, 0))
        d_scores = weights * (_dot(value, d_out, (1, 1)) - delta[None, :])
        return d_key + _dot(d_scores.astype(query.dtype), query, (1, 0)), d_value

    zeros = jnp.zeros(key.shape, jnp.float32)
    blocks = jnp.int32(query_ref.shape[0] // block_q)  # a typed number: Triton takes no others
    blocks = jnp.where(start < length, blocks, 0)
    d_key, d_value = lax.fori_loop(0, blocks, step, (zeros, zeros))
    d_key_ref[...] = (d_key * scale).astype(d_key_ref.dtype)
    d_value_ref[...] = d_value.astype(d_value_ref.dtype)
