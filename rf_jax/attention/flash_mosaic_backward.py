"""The gradients of `flash_mosaic`: one kernel for key and value, one for query.

As in FlashAttention-2 (arXiv 2307.08691), weights are computed again from the log-sum-exp. Two
kernels need 7 products per pair of blocks where a single kernel would need 5, but they need no
atomic additions: each sum stays in the registers of one warpgroup, and results are the same from
run to run.

With weights p = exp(scores - log_sum_exp) and dp = d_out value^T, the gradient of the scores is
p (dp - delta), where delta is the row sum of d_out * out.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from rf_jax.attention import mosaic

D_KEY_VALUE_TILES = mosaic.Tiles(rows=64, streamed=64, stages=3)
"""Tiles of the kernel for key and value, which are held, while query and d_out are streamed. They
take 64 + 96 KiB at hd 128. The two sums take 128 registers per thread, which leaves room for
64 x 64 scores."""

D_QUERY_TILES = mosaic.Tiles(rows=64, streamed=128, stages=2)
"""Tiles of the kernel for query, which is held along with d_out, while key and value are streamed.
They take 64 + 128 KiB at hd 128."""


def backward(query, key, value, key_lengths, scale, log_sum_exp, delta, d_out):
    """Gradients of query, key and value; exactly zero for keys beyond the length.

    Args:
      query, key, value, key_lengths, scale: the arguments of `flash_mosaic.forward`.
      log_sum_exp: [B, nh, T] float32, its second result.
      delta: [B, nh, T] float32, the row sums of d_out * out, less the gradient of log_sum_exp.
      d_out: [B, T, nh, hd], the gradient of the first result.
    """
    operands = (query, key, value, key_lengths, log_sum_exp * mosaic.LOG2_E, delta, d_out)
    tiles = D_KEY_VALUE_TILES
    d_key, d_value = mosaic.call(
        flash_d_key_value,
        tiles,
        scale,
        rows_of=key,
        out_type=(jax.ShapeDtypeStruct(key.shape, key.dtype),) * 2,
        scratch=dict(
            held=(mosaic.held(tiles, key), mosaic.held(tiles, value)),
            held_full=mosaic.held_full(copies=2),
            rings=(mosaic.ring(tiles, query), mosaic.ring(tiles, d_out)),
            statistics_rings=(mosaic.ring_statistics(tiles), mosaic.ring_statistics(tiles)),
            full=mosaic.ring_full(tiles, copies=4),
            free=mosaic.ring_free(tiles),
        ),
    )(*operands)
    tiles = D_QUERY_TILES
    d_query = mosaic.call(
        flash_d_query,
        tiles,
        scale,
        rows_of=query,
        out_type=jax.ShapeDtypeStruct(query.shape, query.dtype),
        scratch=dict(
            held=(mosaic.held(tiles, query), mosaic.held(tiles, d_out)),
            held_statistics=(mosaic.held_statistics(tiles), mosaic.held_statistics(tiles)),
            held_full=mosaic.held_full(copies=4),
            rings=(mosaic.ring(tiles, key), mosaic.ring(tiles, value)),
            full=mosaic.ring_full(tiles, copies=2),
            free=mosaic.ring_free(tiles),
        ),
    )(*operands)
    return d_query, d_key, d_value


def flash_d_key_value(
    query,
    key,
    value,
    key_lengths,
    log2_sum_exp,
    delta,
    d_out,
    d_key,
    d_value,
    *,
    held,
    held_full,
    rings,
    statistics_rings,
    full,
    free,
    tiles,
    scale,
):
    """The kernel of d_key and d_value: sums over all queries for a block of keys.

    Its scores are transposed, because weights are then left operands of products, and only left
    operands may lie in registers.
    """
    batch, head, block, warpgroup = mosaic.position()
    length = key_lengths[batch]
    has_keys = block * (mosaic.CONSUMERS * tiles.rows) < length
    steps = jnp.where(has_keys, query.shape[1] // tiles.streamed, 0)

    @pl.when(warpgroup == mosaic.CONSUMERS)
    def _():
        statistics = (log2_sum_exp, delta), statistics_rings
        start = _copy_blocks((query, d_out), rings, *statistics, (batch, head), full, tiles)
        mosaic.produce(steps, tiles, (free, start))

    @pl.when(warpgroup < mosaic.CONSUMERS)
    def _():
        mosaic.be_consumer()
        rows = mosaic.consumer_rows(tiles, block, warpgroup)
        keys, values = (tile.at[warpgroup] for tile in held)
        for source, tile in ((key, keys), (value, values)):
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], tile, held_full.at[warpgroup])
        plgpu.barrier_wait(held_full.at[warpgroup])

        def add(step, sums):
            slot = lax.rem(step, tiles.stages)
            plgpu.barrier_wait(full.at[slot])
            streamed = tuple(ring.at[slot] for ring in (*rings, *statistics_rings))
            sums = _add_d_key_value(*sums, keys, values, *streamed, scale)
            plgpu.barrier_arrive(free.at[slot])
            return sums

        start = (mosaic.zeros(*keys.shape), mosaic.zeros(*values.shape))
        d_keys, d_values = lax.fori_loop(0, steps, add, start)
        # A key reaches only its own row of the sums, so masking the sums is enough.
        valid = mosaic.valid_keys(keys.shape, 0, rows.start, length)
        keys[...] = jnp.where(valid, d_keys * scale, 0.0).astype(keys.dtype)
        values[...] = jnp.where(valid, d_values, 0.0).astype(values.dtype)
        mosaic.write((keys, d_key.at[batch, rows, head]), (values, d_value.at[batch, rows, head]))


def _copy_blocks(sources, rings, statistics, statistics_rings, place, full, tiles):
    """Makes the producer's start(step, slot), which begins to copy a block of rows into the rings.

    Args:
      sources: arrays [B, T or S, nh, hd].
      rings: a ring for each of them.
      statistics: arrays [B, nh, T].
      statistics_rings: a ring for each of them.
      place: indices of batch and head.
      full: the barriers of `mosaic.ring_full`.
      tiles: the kernel's `Tiles`.
    """
    batch, head = place

    def start(step, slot):
        rows = pl.ds(step * tiles.streamed, tiles.streamed)
        for source, ring in zip(sources, rings, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], ring.at[slot], full.at[slot])
        for source, ring in zip(statistics, statistics_rings, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, head, rows], ring.at[slot], full.at[slot])

    return start


def _add_d_key_value(d_keys, d_values, keys, values, queries, d_outs, log2_sum_exps, deltas, scale):
    """Adds a block of queries to the sums; `d_keys` still lacks the factor `scale`."""
    dtype = queries.dtype

    def issue(refs):
        d_keys, d_values, scores, d_weights = refs
        plgpu.wgmma(scores, keys, mosaic.transpose(queries))
        plgpu.wgmma(d_weights, values, mosaic.transpose(d_outs))
        # From here on each product runs during the arithmetic on the result of the one before.
        scores = plgpu.wgmma_accumulator_load(scores, wait_n=1) * (scale * mosaic.LOG2_E)
        weights = jnp.exp2(scores - mosaic.per_column(log2_sum_exps[...], scores))
        plgpu.wgmma(d_values, weights.astype(dtype), d_outs)
        d_weights = plgpu.wgmma_accumulator_load(d_weights, wait_n=1)
        d_scores = weights * (d_weights - mosaic.per_column(deltas[...], d_weights))
        plgpu.wgmma(d_keys, d_scores.astype(dtype), queries)

    nothing = mosaic.zeros(keys.shape[0], queries.shape[0])
    d_keys, d_values, *_ = mosaic.multiply(issue, d_keys, d_values, nothing, nothing)
    return d_keys, d_values


def flash_d_query(
    query,
    key,
    value,
    key_lengths,
    log2_sum_exp,
    delta,
    d_out,
    d_query,
    *,
    held,
    held_statistics,
    held_full,
    rings,
    full,
    free,
    tiles,
    scale,
):
    """The kernel of d_query: sums over all keys for a block of queries."""
    batch, head, block, warpgroup = mosaic.position()
    length = key_lengths[batch]
    last = mosaic.num_key_blocks(length, tiles) - 1

    @pl.when(warpgroup == mosaic.CONSUMERS)
    def _():
        start = _copy_blocks((key, value), rings, (), (), (batch, head), full, tiles)
        mosaic.produce(last + 1, tiles, (free, start))

    @pl.when(warpgroup < mosaic.CONSUMERS)
    def _():
        mosaic.be_consumer()
        rows = mosaic.consumer_rows(tiles, block, warpgroup)
        here = held_full.at[warpgroup]
        for source, tile in zip((query, d_out), held, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], tile.at[warpgroup], here)
        for source, tile in zip((log2_sum_exp, delta), held_statistics, strict=True):
            plgpu.copy_gmem_to_smem(source.at[batch, head, rows], tile.at[warpgroup], here)
        plgpu.barrier_wait(here)
        queries, d_outs = (tile.at[warpgroup] for tile in held)
        statistics = tuple(tile[warpgroup] for tile in held_statistics)

        def add(step, d_queries, masked=False):
            slot = lax.rem(step, tiles.stages)
            plgpu.barrier_wait(full.at[slot])
            keys, values = (ring.at[slot] for ring in rings)
            shape = (tiles.rows, tiles.streamed)
            valid = mosaic.valid_keys(shape, 1, step * tiles.streamed, length) if masked else None
            d_queries = _add_d_query(
                d_queries, queries, d_outs, *statistics, keys, values, valid, scale
            )
            plgpu.barrier_arrive(free.at[slot])
            return d_queries

        d_queries = lax.fori_loop(0, last, add, mosaic.zeros(*queries.shape))
        d_queries = add(last, d_queries, masked=True)
        queries[...] = (d_queries * scale).astype(queries.dtype)
        mosaic.write((queries, d_query.at[batch, rows, head]))


def _add_d_query(d_queries, queries, d_outs, log2_sum_exps, deltas, keys, values, valid, scale):
    """Adds a block of keys to the sum, which still lacks the factor `scale`.

    `valid` is a mask of the scores [rows, keys], or None if all keys are within the length.
    """

    def issue(refs):
        d_queries, scores, d_weights = refs
        plgpu.wgmma(scores, queries, mosaic.transpose(keys))
        plgpu.wgmma(d_weights, d_outs, mosaic.transpose(values))
        scores = plgpu.wgmma_accumulator_load(scores, wait_n=1) * (scale * mosaic.LOG2_E)
        weights = jnp.exp2(scores - mosaic.per_row(log2_sum_exps, scores))
        d_weights = plgpu.wgmma_accumulator_load(d_weights, wait_n=0)
        d_scores = weights * (d_weights - mosaic.per_row(deltas, d_weights))
        if valid is not None:
            # A product with zero would not do, because scores beyond the length may overflow.
            d_scores = jnp.where(valid, d_scores, 0.0)
        plgpu.wgmma(d_queries, d_scores.astype(keys.dtype), keys)

    nothing = mosaic.zeros(queries.shape[0], keys.shape[0])
    return mosaic.multiply(issue, d_queries, nothing, nothing)[0]
