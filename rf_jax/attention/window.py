"""Exact attention of every token to those near it and to a few that all read, in plain XLA.

The sequence is cut into blocks. A query reads the keys of its own block and of `reach` blocks on
either side. It also reads the keys of `Shared`: those that have no place, and those that stand for
a block beyond the reach.

One tile of queries is processed after the other: these meet the part of the keys that any of them
reads and all shared keys, in one softmax. So memory is linear in the length. Tiles are cut from the
arrays as they are, because every pass over whole arrays shows on CPUs. GPUs process many tiles at
once. The gradient computes the scores again from the log-sum-exps, as
`rf_jax.attention.dot_product` does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.precision import float32_product

SMALLEST_TILE, LARGEST_TILE = 64, 192
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
    if shared is None:
        batch, _, num_heads, head_dim = key.shape
        nothing = jnp.zeros((batch, 0, num_heads, head_dim), key.dtype)
        shared = Shared(nothing, nothing, jnp.zeros((batch, 0), jnp.float32))
    limits = key_starts, key_lengths, lax.stop_gradient(shared.log_counts)
    where = near, num_placeless
    return _attention(where, query, key, value, shared.key, shared.value, limits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(where, query, key, value, shared_key, shared_value, limits):
    """Attention of queries to the keys near them, and to shared keys.

    Args:
      where: `Near` and the number of placeless shared keys.
      query, key, value: [B, S, nh, hd].
      shared_key, shared_value: [B, E, nh, hd].
      limits: starts [B], lengths [B] and log_counts [B, E].

    Returns:
      the result [B, S, nh, hd].
    """
    return _forward(where, query, key, value, shared_key, shared_value, limits)[0]


def _forward(where, query, key, value, shared_key, shared_value, limits):
    arrays = query, key, value, shared_key, shared_value, limits
    many = _tiles_at_once(where, query, shared_key)
    out, log_sums = lax.platform_dependent(
        *arrays,
        cpu=functools.partial(_attend, where, at_once=1),
        default=functools.partial(_attend, where, at_once=many),
    )
    return out, (*arrays, out, log_sums)


def _attend(where, query, key, value, shared_key, shared_value, limits, *, at_once):
    """The result, and the log-sum-exps [B, S, nh, 1], of so many tiles at a time.

    The last tile begins earlier where it would not be full, so it has some queries again.
    """
    length = query.shape[1]
    tile, margin = _sizes(where, length)
    span = min(tile + 2 * margin, length)
    shared_key, shared_value = _heads_apart(shared_key), _heads_apart(shared_value)

    def attend(first):
        start = jnp.clip(first - margin, 0, length - span)
        queries = _heads_apart(lax.dynamic_slice_in_dim(query, first, tile, 1))
        keys, values = (
            _heads_apart(lax.dynamic_slice_in_dim(x, start, span, 1)) for x in (key, value)
        )
        added = _added(first, tile, start, span, where, limits)
        scores = [_scores(queries, *x) for x in zip((keys, shared_key), added, strict=True)]
        maxima = (x.max(-1, keepdims=True, initial=_LOWEST) for x in scores)
        maximum = functools.reduce(jnp.maximum, maxima)
        weights = [jnp.exp(x - maximum) for x in scores]
        total = sum(x.sum(-1, keepdims=True) for x in weights)
        out = sum(
            _product("bhqk,bhkd->bhqd", x.astype(v.dtype), v)
            for x, v in zip(weights, (values, shared_value), strict=True)
        )
        log_sum = jnp.where(total > 0, maximum + jnp.log(total), 0)
        out = (out / jnp.where(total > 0, total, 1)).astype(query.dtype)
        return _heads_apart(out), _heads_apart(log_sum)

    firsts = jnp.minimum(jnp.arange(0, length, tile), length - tile)
    tiles = lax.map(attend, firsts, batch_size=at_once if at_once > 1 else None)
    return jax.tree.map(lambda x: _joined(x, length), tiles)


def _backward(where, saved, gradient):
    query, shared_key = saved[0], saved[3]
    many = _tiles_at_once(where, query, shared_key)
    return *lax.platform_dependent(
        *saved,
        gradient,
        cpu=functools.partial(_gradients, where, at_once=1),
        default=functools.partial(_gradients, where, at_once=many),
    ), None


def _gradients(
    where, query, key, value, shared_key, shared_value, limits, out, log_sums, gradient, *, at_once
):
    """The gradients of all keys, values and queries, from so many tiles of queries at a time."""
    length, dtype = query.shape[1], log_sums.dtype
    tile, margin = _sizes(where, length)
    span, chunk = tile + 2 * margin, at_once * tile
    after = -length % chunk
    inner = (gradient.astype(dtype) * out.astype(dtype)).sum(-1, keepdims=True)
    by_query = [
        split_blocks(_padded(x, 0, after), chunk) for x in (query, gradient, log_sums, inner)
    ]
    near = [_heads_apart(_padded(x, margin, margin + after)) for x in (key, value)]
    shared = [_heads_apart(x) for x in (shared_key, shared_value)]

    def tile_gradients(first, queries, rows_gradient, log_sum, rows_inner):
        """What a tile gives to its queries, and to the keys and values that it meets."""
        parts = [lax.dynamic_slice_in_dim(x, first, span, 2) for x in near]
        keys, values = (jnp.concatenate(x, 2) for x in zip(parts, shared, strict=True))
        added = jnp.concatenate(_added(first, tile, first - margin, span, where, limits), -1)
        weights = jnp.exp(_scores(queries, keys, added) - log_sum)
        change = _product("bhqd,bhkd->bhqk", rows_gradient, values) - rows_inner
        change = (weights * change * query.shape[-1] ** -0.5).astype(key.dtype)
        return _product("bhqk,bhkd->bhqd", change, keys), (
            _product("bhqk,bhqd->bhkd", change, queries),
            _product("bhqk,bhqd->bhkd", weights.astype(value.dtype), rows_gradient),
        )

    def step(carry, inputs):
        """Adds what a chunk of tiles gives to the gradients of the keys and values that it meets.

        The first keys of these then have all their parts; they leave, and empty ones enter.
        """
        first, *rows = inputs
        if at_once == 1:
            query_gradient, added = tile_gradients(first, *rows)
        else:
            tiles = [jnp.stack(jnp.split(x, at_once, 2)) for x in rows]
            firsts = first + tile * jnp.arange(at_once)
            query_gradient, added = jax.vmap(tile_gradients)(firsts, *tiles)
            query_gradient = jnp.concatenate(list(query_gradient), 2)
            added = jax.tree.map(lambda x: _overlapped(x, tile, span), added)
        totals = jax.tree.map(lambda total, x: total + x, carry, added)
        done = jax.tree.map(lambda x: x[:, :, :chunk], totals)
        totals = jax.tree.map(lambda x: _moved_on(x, chunk, reach), totals)
        return totals, (query_gradient, done)

    reach = chunk + 2 * margin
    firsts = jnp.arange(0, length, chunk)
    sizes = *near[0].shape[:2], reach + shared_key.shape[1], near[0].shape[3]
    zeros = jnp.zeros(sizes, dtype)
    totals, (query_gradients, done) = lax.scan(step, (zeros, zeros), (firsts, *by_query))
    results = [
        join_blocks(query_gradients, length),
        *(_near_gradient(*x, reach, margin, length) for x in zip(done, totals, strict=True)),
        *(_heads_apart(x[:, :, reach:]) for x in totals),
    ]
    likes = query, key, value, shared_key, shared_value
    return tuple(x.astype(like.dtype) for x, like in zip(results, likes, strict=True))


_attention.defvjp(_forward, _backward)


def _tiles_at_once(where, query, shared_key):
    """How many tiles GPUs process at once."""
    batch, length, num_heads, _ = query.shape
    tile, margin = _sizes(where, length)
    scores = batch * num_heads * tile * (tile + 2 * margin + shared_key.shape[1])
    return min(max(GPU_SCORES // scores, 1), -(-length // tile))


def _sizes(where, length):
    """Queries of a tile, and the keys that these meet beyond either end of it."""
    near, _ = where
    margin = near.block * near.reach
    tile = min(max(margin, SMALLEST_TILE), LARGEST_TILE, length)
    return near.block * max(tile // near.block, 1), margin


def _heads_apart(x):
    """[B, S, nh, hd] -> [B, nh, S, hd], and back."""
    return x.swapaxes(1, 2)


def _padded(x, before, after):
    return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))


def _joined(tiles, length):
    """Tiles [tiles, B, tile, ...] one after the other, [B, length, ...], the last at the end."""
    count, batch, tile = tiles.shape[:3]
    rest = length - (count - 1) * tile
    whole = jnp.moveaxis(tiles[:-1], 0, 1).reshape(batch, length - rest, *tiles.shape[3:])
    return jnp.concatenate([whole, tiles[-1][:, tile - rest :]], 1)


def _overlapped(parts, tile, span):
    """The sum of parts of tiles [n, B, nh, span + E, hd], each `tile` keys after the one before.

    Returns:
      [B, nh, (n - 1) tile + span + E, hd]; the last E are sums over the same keys.
    """
    count = parts.shape[0]
    pieces = -(-span // tile)
    near = jnp.pad(parts[..., :span, :], (*[(0, 0)] * 3, (0, pieces * tile - span), (0, 0)))
    near = near.reshape(*near.shape[:3], pieces, tile, -1)
    # The piece i of tile j belongs to place i + j.
    placed = (
        jnp.pad(near[:, :, :, i], ((i, pieces - 1 - i), *[(0, 0)] * 4)) for i in range(pieces)
    )
    total = jnp.moveaxis(sum(placed), 0, 2)  # [B, nh, n + pieces - 1, tile, hd]
    total = total.reshape(*total.shape[:2], -1, total.shape[-1])
    rest = parts[..., span:, :].sum(0)
    return jnp.concatenate([total[:, :, : (count - 1) * tile + span], rest], 2)


def _moved_on(totals, tile, span):
    """Sums [B, nh, span + E, hd] for the next tile of queries."""
    empty = jnp.zeros_like(totals[:, :, :tile])
    return jnp.concatenate([totals[:, :, tile:span], empty, totals[:, :, span:]], 2)


def _near_gradient(done, totals, span, margin, length):
    """The gradient [B, length, nh, hd] of keys or values, of its tiles and of what is left."""
    tile = done.shape[3]
    done = jnp.moveaxis(done, 0, 2)  # [B, nh, tiles, tile, hd]
    done = done.reshape(*done.shape[:2], -1, done.shape[-1])
    whole = jnp.concatenate([done, totals[:, :, : span - tile]], 2)
    return _heads_apart(whole[:, :, margin : margin + length])


def _product(equation, a, b):
    """The einsum of operands of one type, in float32 at least."""
    return jnp.einsum(equation, a, b, **float32_product(a.dtype))


def _scores(query, key, added):
    """Scores [B, nh, q, k] of a tile of queries and the keys that it meets."""
    return _product("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5 + added[:, None]


def _added(first, tile, start, span, where, limits):
    """What is added to the scores of a tile: -inf where a query does not read a key.

    Args:
      first: place of its first query.
      tile: number of its queries.
      start, span: place of the first key near it, and their number.
      where, limits: see `_attention`.

    Returns:
      [B, tile, span] for the keys near it, and [B, tile, E] for the shared ones.
    """
    (near, num_placeless), (starts, lengths, log_counts) = where, limits
    places = start + jnp.arange(span)
    blocks = (first + jnp.arange(tile))[:, None] // near.block
    reads = jnp.abs(blocks - places // near.block) <= near.reach  # (tile, span)
    starts, lengths = starts[:, None, None], lengths[:, None, None]
    reads = reads & (places >= starts) & (places < lengths)
    shared = jnp.arange(log_counts.shape[1]) - num_placeless
    beyond = (shared < 0) | (jnp.abs(blocks - shared) > near.reach)  # (tile, E)
    nothing = jnp.asarray(-jnp.inf, log_counts.dtype)
    return jnp.where(reads, 0, nothing), jnp.where(beyond, log_counts[:, None], nothing)
