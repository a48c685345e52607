"""Exact attention of every token to a window around it, in plain XLA.

The sequence is cut into blocks of BLOCK tokens. The queries of a block meet the keys of that block
and of the blocks on either side that the window reaches; what lies outside the window is masked.
One block of queries is processed after the other, so that memory is linear in the length. The
gradient computes the scores again from the log-sum-exps, as `rf_jax.attention.dot_product` does.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.precision import float32_product

BLOCK = 256
"""Queries, and keys, of a block."""

_LOWEST = -1e30
"""Least maximum of a row, so that rows without keys stay finite."""


def window_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array,
    key_starts: jax.Array,
    window: int,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which place i reads the places j with |i - j| <= window.

    Derivatives are available in reverse mode only.

    Args:
      query, key, value: [B, S, nh, hd].
      key_lengths, key_starts: [B]; only keys from start to length are read.
      window: places on either side.

    Returns:
      out [B, S, nh, hd], and the log-sum-exp of the scaled scores [B, nh, S] in float32 at least;
      both are 0 in rows without keys.
    """
    length = query.shape[1]
    after = -length % BLOCK
    margin = -(-window // BLOCK) * BLOCK
    queries = split_blocks(jnp.pad(query, ((0, 0), (0, after), (0, 0), (0, 0))), BLOCK)
    around = ((0, 0), (margin, margin + after), (0, 0), (0, 0))
    key, value = (jnp.pad(x, around).transpose(0, 2, 1, 3) for x in (key, value))
    results = _attention(window, queries, key, value, key_starts, key_lengths)
    out, log_sums = (join_blocks(x, length) for x in results)
    return out, log_sums[..., 0].transpose(0, 2, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(window, queries, key, value, starts, lengths):
    """Attention of blocks of queries to keys with a margin of whole blocks on either side.

    Args:
      queries: [blocks, B, nh, BLOCK, hd].
      key, value: [B, nh, margin + S + margin, hd].

    Returns:
      the result, and the log-sum-exps [blocks, B, nh, BLOCK, 1].
    """
    return _forward(window, queries, key, value, starts, lengths)[0]


def _forward(window, queries, key, value, starts, lengths):
    span = _span(queries, key)

    def attend(inputs):
        i, query = inputs
        near_key, near_value = (_part(x, i, span) for x in (key, value))
        scores = _scores(query, near_key, _mask(i, span, window, starts, lengths))
        maximum = jnp.maximum(scores.max(-1, keepdims=True), _LOWEST)
        weights = jnp.exp(scores - maximum)
        total = weights.sum(-1, keepdims=True)
        out = _product("bhqk,bhkd->bhqd", weights.astype(value.dtype), near_value)
        log_sum = jnp.where(total > 0, maximum + jnp.log(total), 0)
        return (out / jnp.where(total > 0, total, 1)).astype(query.dtype), log_sum

    results = lax.map(attend, (jnp.arange(len(queries)), queries))
    return results, (queries, key, value, starts, lengths, *results)


def _backward(window, saved, gradients):
    queries, key, value, starts, lengths, out, log_sums = saved
    gradient, log_sums_gradient = gradients
    span, dtype = _span(queries, key), log_sums.dtype
    inner = (gradient.astype(dtype) * out.astype(dtype)).sum(-1, keepdims=True) - log_sums_gradient

    def step(totals, inputs):
        """Adds what a block of queries gives to the gradients of the keys and values around it.

        The first block of these then has all its parts; it leaves, and an empty one enters.
        """
        i, query, rows_gradient, log_sum, rows_inner = inputs
        near_key, near_value = (_part(x, i, span) for x in (key, value))
        scores = _scores(query, near_key, _mask(i, span, window, starts, lengths))
        weights = jnp.exp(scores - log_sum)
        change = _product("bhqd,bhkd->bhqk", rows_gradient, near_value) - rows_inner
        change = (weights * change * query.shape[-1] ** -0.5).astype(key.dtype)
        added = (
            _product("bhqk,bhqd->bhkd", change, query),
            _product("bhqk,bhqd->bhkd", weights.astype(value.dtype), rows_gradient),
        )
        totals = jax.tree.map(jnp.add, totals, added)
        done = jax.tree.map(lambda x: x[:, :, :BLOCK], totals)
        empty = jnp.zeros_like(done[0])
        totals = jax.tree.map(lambda x: jnp.concatenate([x[:, :, BLOCK:], empty], 2), totals)
        return totals, (_product("bhqk,bhkd->bhqd", change, near_key), done)

    zeros = jnp.zeros((*key.shape[:2], span, key.shape[3]), dtype)
    rows = jnp.arange(len(queries)), queries, gradient, log_sums, inner
    totals, (query_gradients, done) = lax.scan(step, (zeros, zeros), rows)
    key_gradient, value_gradient = (
        jnp.concatenate([_in_order(first), rest[:, :, :-BLOCK]], 2)
        for first, rest in zip(done, totals, strict=True)
    )
    results = zip((query_gradients, key_gradient, value_gradient), saved[:3], strict=True)
    return *(x.astype(like.dtype) for x, like in results), None, None


_attention.defvjp(_forward, _backward)


def _span(queries, key):
    """How many keys the queries of one block meet."""
    return key.shape[2] - (len(queries) - 1) * BLOCK


def _part(x, i, span):
    """The keys or values [B, nh, span, hd] around block i."""
    return lax.dynamic_slice_in_dim(x, i * BLOCK, span, axis=2)


def _in_order(blocks):
    """Blocks [blocks, B, nh, BLOCK, hd] one after the other, [B, nh, blocks BLOCK, hd]."""
    blocks = blocks.transpose(1, 2, 0, 3, 4)
    return blocks.reshape(*blocks.shape[:2], -1, blocks.shape[-1])


def _product(equation, a, b):
    """The einsum of operands of one type, in float32 at least."""
    return jnp.einsum(equation, a, b, **float32_product(a.dtype))


def _scores(query, key, mask):
    """Scores [B, nh, q, k] of a block of queries and the keys around it, -inf where masked."""
    scores = _product("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
    return jnp.where(mask[:, None], scores, -jnp.inf)


def _mask(i, span, window, starts, lengths):
    """The keys [B, q, k] that the queries of block i read."""
    query_places = i * BLOCK + jnp.arange(BLOCK)[:, None]
    key_places = i * BLOCK + jnp.arange(span) - (span - BLOCK) // 2
    near = jnp.abs(query_places - key_places) <= window  # (q, k)
    starts, lengths = starts[:, None, None], lengths[:, None, None]
    return near & (key_places >= starts) & (key_places < lengths)
