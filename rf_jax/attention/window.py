"""Exact attention of every token to those near it and to a few that all read, in plain XLA.

The sequence is cut into blocks. A query reads the keys of its own block and of `reach` blocks on
either side. It also reads the keys of `Shared`: those that have no place, and those that stand for
a block beyond the reach.

One tile of queries is processed after the other: these meet the part of the keys that any of them
reads and all shared keys, in one softmax. So memory is linear in the length. GPUs process many
tiles at once where no gradient is wanted. The gradient computes the scores again from the
log-sum-exps, as `rf_jax.attention.dot_product` does.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.precision import float32_product

SMALLEST_TILE, LARGEST_TILE = 64, 256
"""Queries of a tile, unless blocks are larger. Between these it is as large as the window on one
side: a larger tile meets more keys that few of its queries read."""

GPU_SCORES = 2**26
"""About the largest number of scores at a time on GPUs: 256 MiB in float32."""

_LOWEST = -1e30
"""Least maximum of a row, so that rows without keys stay finite."""


class Near(NamedTuple):
    """Which keys of the sequence a query reads: those whose blocks are at most `reach` apart.

    Attributes:
      block: tokens of a block.
      reach: blocks on either side; with blocks of one token, the places of a window.
    """

    block: int
    reach: int


class Shared(NamedTuple):
    """E keys that are read from everywhere, but those for blocks only from beyond the reach.

    Attributes:
      key, value: [B, E, nh, hd]; those without a place come first, then one for every block.
      log_counts: [B, E] logarithms of the number of tokens that each stands for, which are added to
        the scores; -inf where there is none. They have no derivative.
    """

    key: jax.Array
    value: jax.Array
    log_counts: jax.Array


def window_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array,
    key_starts: jax.Array,
    near: Near,
    shared: Shared | None = None,
    num_placeless: int = 0,
) -> jax.Array:
    """Softmax attention to the keys near a query and to the shared ones.

    Derivatives are available in reverse mode only.

    Args:
      query, key, value: [B, S, nh, hd].
      key_lengths, key_starts: [B]; of the sequence only keys from start to length are read.
      near: which of these.
      shared: the shared keys; None if there are none.
      num_placeless: how many of them have no place.

    Returns:
      [B, S, nh, hd]; 0 in rows without keys.
    """
    batch, length, num_heads, head_dim = query.shape
    margin = near.block * near.reach
    tile = min(max(margin, SMALLEST_TILE), LARGEST_TILE, length)
    tile = near.block * max(tile // near.block, 1)
    after = -length % tile
    queries = split_blocks(jnp.pad(query, ((0, 0), (0, after), (0, 0), (0, 0))), tile)
    if shared is None:
        nothing = jnp.zeros((batch, 0, num_heads, head_dim), key.dtype)
        shared = Shared(nothing, nothing, jnp.zeros((batch, 0), jnp.float32))
    around = ((0, 0), (margin, margin + after), (0, 0), (0, 0))
    keys = [_heads_first(jnp.pad(x, around)) for x in (key, value)]
    shared_keys = [_heads_first(x) for x in (shared.key, shared.value)]
    limits = key_starts, key_lengths, lax.stop_gradient(shared.log_counts)
    out = _attention((near, num_placeless), queries, *keys, *shared_keys, limits)
    return join_blocks(out, length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(where, queries, key, value, shared_key, shared_value, limits):
    """Attention of tiles of queries to keys with a margin on either side, and to shared keys.

    Args:
      where: `Near` and the number of placeless shared keys.
      queries: [tiles, B, nh, tile, hd].
      key, value: [B, nh, margin + tiles tile + margin, hd].
      shared_key, shared_value: [B, nh, E, hd].
      limits: starts [B], lengths [B] and log_counts [B, E].

    Returns:
      the result [tiles, B, nh, tile, hd].
    """
    return _forward(where, queries, key, value, shared_key, shared_value, limits)[0]


def _forward(where, queries, key, value, shared_key, shared_value, limits):
    arrays = queries, key, value, shared_key, shared_value, limits
    _, *sizes, tile, _ = queries.shape
    scores = math.prod(sizes) * tile * (_span(queries, key) + shared_key.shape[2])
    many = max(GPU_SCORES // scores, 1)
    out, log_sums = lax.platform_dependent(
        *arrays,
        cpu=functools.partial(_attend, where, at_once=1),
        default=functools.partial(_attend, where, at_once=min(many, len(queries))),
    )
    return out, (*arrays, out, log_sums)


def _attend(where, queries, key, value, shared_key, shared_value, limits, *, at_once):
    """The result, and the log-sum-exps [tiles, B, nh, tile, 1], of so many tiles at a time."""

    def attend(inputs):
        i, query = inputs
        keys, values = _met(i, queries, key, shared_key), _met(i, queries, value, shared_value)
        scores = _scores(query, keys, _added(i, query, keys, where, limits))
        maximum = jnp.maximum(scores.max(-1, keepdims=True), _LOWEST)
        weights = jnp.exp(scores - maximum)
        total = weights.sum(-1, keepdims=True)
        out = _product("bhqk,bhkd->bhqd", weights.astype(value.dtype), values)
        log_sum = jnp.where(total > 0, maximum + jnp.log(total), 0)
        return (out / jnp.where(total > 0, total, 1)).astype(query.dtype), log_sum

    rows = jnp.arange(len(queries)), queries
    return lax.map(attend, rows, batch_size=at_once if at_once > 1 else None)


def _backward(where, saved, gradient):
    queries, key, value, shared_key, shared_value, limits, out, log_sums = saved
    tile, dtype = queries.shape[3], log_sums.dtype
    inner = (gradient.astype(dtype) * out.astype(dtype)).sum(-1, keepdims=True)

    def step(carry, inputs):
        """Adds what a tile of queries gives to the gradients of the keys and values that it meets.

        The first tile of these then has all its parts; it leaves, and an empty one enters.
        """
        i, query, rows_gradient, log_sum, rows_inner = inputs
        keys, values = _met(i, queries, key, shared_key), _met(i, queries, value, shared_value)
        weights = jnp.exp(_scores(query, keys, _added(i, query, keys, where, limits)) - log_sum)
        change = _product("bhqd,bhkd->bhqk", rows_gradient, values) - rows_inner
        change = (weights * change * query.shape[-1] ** -0.5).astype(key.dtype)
        added = (
            _product("bhqk,bhqd->bhkd", change, query),
            _product("bhqk,bhqd->bhkd", weights.astype(value.dtype), rows_gradient),
        )
        totals = jax.tree.map(lambda total, x: total + x, carry, added)
        done = jax.tree.map(lambda x: x[:, :, :tile], totals)
        totals = jax.tree.map(lambda x: _moved_on(x, tile, shared_key.shape[2]), totals)
        return totals, (_product("bhqk,bhkd->bhqd", change, keys), done)

    span = _span(queries, key)
    zeros = jnp.zeros((*key.shape[:2], span + shared_key.shape[2], key.shape[3]), dtype)
    rows = jnp.arange(len(queries)), queries, gradient, log_sums, inner
    totals, (query_gradients, done) = lax.scan(step, (zeros, zeros), rows)
    near_gradients = (
        jnp.concatenate([_in_order(first), rest[:, :, : span - tile]], 2)
        for first, rest in zip(done, totals, strict=True)
    )
    results = query_gradients, *near_gradients, *(rest[:, :, span:] for rest in totals)
    return *(x.astype(like.dtype) for x, like in zip(results, saved[:5], strict=True)), None


_attention.defvjp(_forward, _backward)


def _heads_first(x):
    return x.transpose(0, 2, 1, 3)


def _span(queries, key):
    """How many keys of the sequence the queries of one tile meet."""
    return key.shape[2] - (len(queries) - 1) * queries.shape[3]


def _met(i, queries, x, shared):
    """The keys or values [B, nh, span + E, hd] that the queries of tile i meet."""
    part = lax.dynamic_slice_in_dim(x, i * queries.shape[3], _span(queries, x), axis=2)
    return jnp.concatenate([part, shared], 2)


def _moved_on(totals, tile, num_shared):
    """Sums [B, nh, span + E, hd] for the next tile of queries."""
    span = totals.shape[2] - num_shared
    empty = jnp.zeros_like(totals[:, :, :tile])
    return jnp.concatenate([totals[:, :, tile:span], empty, totals[:, :, span:]], 2)


def _in_order(tiles):
    """Tiles [tiles, B, nh, tile, hd] one after the other, [B, nh, tiles tile, hd]."""
    tiles = tiles.transpose(1, 2, 0, 3, 4)
    return tiles.reshape(*tiles.shape[:2], -1, tiles.shape[-1])


def _product(equation, a, b):
    """The einsum of operands of one type, in float32 at least."""
    return jnp.einsum(equation, a, b, **float32_product(a.dtype))


def _scores(query, key, added):
    """Scores [B, nh, q, k] of a tile of queries and the keys that it meets."""
    return _product("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5 + added[:, None]


def _added(i, query, keys, where, limits):
    """What is added to the scores [B, q, k] of tile i: -inf where a query does not read a key."""
    (near, num_placeless), (starts, lengths, log_counts) = where, limits
    tile, num_shared = query.shape[2], log_counts.shape[1]
    span = keys.shape[2] - num_shared
    first = i * tile
    places = first - (span - tile) // 2 + jnp.arange(span)
    blocks = (first + jnp.arange(tile))[:, None] // near.block
    reads = jnp.abs(blocks - places // near.block) <= near.reach  # (q, span)
    starts, lengths = starts[:, None, None], lengths[:, None, None]
    reads = reads & (places >= starts) & (places < lengths)
    shared = jnp.arange(num_shared) - num_placeless
    beyond = (shared < 0) | (jnp.abs(blocks - shared) > near.reach)  # (q, E)
    nothing = jnp.asarray(-jnp.inf, log_counts.dtype)
    added = jnp.where(beyond, log_counts[:, None], nothing)
    return jnp.concatenate([jnp.where(reads, 0, nothing), added], -1)
