"""The flash-attention kernels for Hopper GPUs and 16-bit inputs, in Pallas' Mosaic GPU.

The forward pass is here, and the backward pass in `flash_mosaic_backward`. The division of labour
between warpgroups and the consumers' turns on the tensor cores follow FlashAttention-3
(arXiv 2407.08608).

Queries, keys and values are [B, T or S, nh, hd] in bfloat16 or float16. T and S are multiples of
128 and hd is 64 or 128, as `flash` pads them. Statistics and sums are float32, and exponentials are
to base 2.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from rf_jax.attention import mosaic
from rf_jax.attention.flash_mosaic_backward import backward

__all__ = ["backward", "forward"]

TILES = mosaic.Tiles(rows=64, streamed=128, stages=2)
"""Tiles of the forward pass. The query is held, and replaced by the result at the end; key and
value are streamed. They take 32 + 128 KiB at hd 128."""

LOWEST = -1e30
"""Start of the running maximum. It is finite, so that a row without keys meets no inf - inf."""


def forward(query, key, value, key_lengths, scale):
    """Attention and its log-sum-exp.

    Args:
      query: [B, T, nh, hd].
      key, value: [B, S, nh, hd]; they must be finite, also beyond the length.
      key_lengths: [B] int32.
      scale: positive factor of the scores.

    Returns:
      out [B, T, nh, hd] and log_sum_exp [B, nh, T] float32 (0 where the length is 0).
    """
    batch, num_queries, num_heads, _ = query.shape
    return mosaic.call(
        flash_forward,
        TILES,
        scale,
        rows_of=query,
        out_type=(
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, num_heads, num_queries), jnp.float32),
        ),
        scratch=dict(
            query_tiles=mosaic.held(TILES, query),
            log_sum_exp_tiles=mosaic.held_statistics(TILES),
            query_full=mosaic.held_full(),
            keys=(mosaic.ring(TILES, key), mosaic.ring_full(TILES), mosaic.ring_free(TILES)),
            values=(mosaic.ring(TILES, value), mosaic.ring_full(TILES), mosaic.ring_free(TILES)),
            turn=plgpu.Barrier(num_arrivals=mosaic.CONSUMERS),
        ),
    )(query, key, value, key_lengths)


def flash_forward(
    query,
    key,
    value,
    key_lengths,
    out,
    log_sum_exp,
    *,
    query_tiles,
    log_sum_exp_tiles,
    query_full,
    keys,
    values,
    turn,
    tiles,
    scale,
):
    """The kernel of the forward pass.

    Operands and results come first and lie in global memory; the keyword arguments up to `turn` are
    shared memory and barriers.
    """
    batch, head, block, warpgroup = mosaic.position()
    length = key_lengths[batch]

    @pl.when(warpgroup == mosaic.CONSUMERS)
    def _():
        def start(source, ring, full, step, slot):
            rows = pl.ds(step * tiles.streamed, tiles.streamed)
            plgpu.copy_gmem_to_smem(source.at[batch, rows, head], ring.at[slot], full.at[slot])

        mosaic.produce(
            mosaic.num_key_blocks(length, tiles),
            tiles,
            *(
                (free, functools.partial(start, source, ring, full))
                for source, (ring, full, free) in ((key, keys), (value, values))
            ),
        )

    @pl.when(warpgroup < mosaic.CONSUMERS)
    def _():
        mosaic.be_consumer()
        tile, full = query_tiles.at[warpgroup], query_full.at[warpgroup]
        rows = mosaic.consumer_rows(tiles, block, warpgroup)
        plgpu.copy_gmem_to_smem(query.at[batch, rows, head], tile, full)
        plgpu.barrier_wait(full)
        total, maximum, result = _attend(
            tile, keys, values, turn, warpgroup, length, tiles, scale * mosaic.LOG2_E
        )
        has_keys = total > 0.0
        total = jnp.where(has_keys, total, 1.0)
        tile[...] = (result * mosaic.per_row(1.0 / total, result)).astype(tile.dtype)
        log2_sum_exp = maximum + jnp.log2(total)
        log_sum_exp_tiles[warpgroup] = jnp.where(has_keys, log2_sum_exp / mosaic.LOG2_E, 0.0)
        mosaic.write(
            (tile, out.at[batch, rows, head]),
            (log_sum_exp_tiles.at[warpgroup], log_sum_exp.at[batch, head, rows]),
        )


def _attend(query, keys, values, turn, consumer, length, tiles, scale):
    """A consumer's online softmax over all blocks of keys.

    The consumers take turns: while the products of one are running, the other computes its softmax.
    They meet before and after they issue products, and the second consumer is one meeting behind
    the first. The scores of the next block are issued together with the weighted sum of this one,
    so that the tensor cores have no gap between the two.

    Args:
      query: [rows, hd] in shared memory.
      keys, values: each (ring, full barriers, free barriers).
      turn: the barrier at which the consumers meet.
      scale: factor of the scores, whose exponentials are to base 2.

    Returns:
      the sum of weights [rows], the greatest scaled score [rows] and the weighted sum of values
      [rows, hd].
    """
    (key_ring, key_full, key_free), (value_ring, value_full, value_free) = keys, values
    last = mosaic.num_key_blocks(length, tiles) - 1
    no_scores = mosaic.zeros(tiles.rows, tiles.streamed)

    def meet():
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(turn)

    def attend(step, carry):
        scores, *sums = carry
        slot, next_slot = lax.rem(step, tiles.stages), lax.rem(step + 1, tiles.stages)
        weights, total, maximum, result = _softmax(scores, *sums, scale, query.dtype)
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(value_full.at[slot])
        plgpu.barrier_wait(key_full.at[next_slot])
        plgpu.barrier_wait(turn)

        def issue(refs):
            plgpu.wgmma(refs[0], weights, value_ring.at[slot])
            plgpu.wgmma(refs[1], query, mosaic.transpose(key_ring.at[next_slot]))
            meet()
            plgpu.wgmma_wait(1)
            plgpu.barrier_arrive(value_free.at[slot])

        result, scores = mosaic.multiply(issue, result, no_scores)
        plgpu.barrier_arrive(key_free.at[next_slot])
        return scores, total, maximum, result

    scores = _score_first(query, keys, no_scores)
    pl.when(consumer == 1)(meet)
    lowest = jnp.full((tiles.rows,), LOWEST, jnp.float32)
    sums = (mosaic.zeros(tiles.rows), lowest, mosaic.zeros(*query.shape))
    scores, *sums = lax.fori_loop(0, last, attend, (scores, *sums))
    pl.when(consumer == 0)(meet)

    valid = mosaic.valid_keys(scores.shape, 1, last * tiles.streamed, length)
    scores = jnp.where(valid, scores, -jnp.inf)
    weights, total, maximum, result = _softmax(scores, *sums, scale, query.dtype)
    return total, maximum, _weigh_last(result, weights, values, lax.rem(last, tiles.stages))


def _score_first(query, keys, no_scores):
    """The scores of the first block of keys."""
    key_ring, key_full, key_free = keys

    def score(refs):
        plgpu.wgmma(refs[0], query, mosaic.transpose(key_ring.at[0]))

    plgpu.barrier_wait(key_full.at[0])
    (scores,) = mosaic.multiply(score, no_scores)
    plgpu.barrier_arrive(key_free.at[0])
    return scores


def _weigh_last(result, weights, values, slot):
    """Adds the last block to the weighted sum of values; no further scores are issued with it."""
    value_ring, value_full, value_free = values

    def weigh(refs):
        plgpu.wgmma(refs[0], weights, value_ring.at[slot])

    plgpu.barrier_wait(value_full.at[slot])
    (result,) = mosaic.multiply(weigh, result)
    plgpu.barrier_arrive(value_free.at[slot])
    return result


def _softmax(scores, total, maximum, result, scale, dtype):
    """The weights of a block, and the sum, maximum and result so far, rescaled to a new maximum.

    The sum includes the weights of the block; the result does not yet include its values.
    """
    new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=1) * scale)
    weights = jnp.exp2(scores * scale - mosaic.per_row(new_maximum, scores))
    shrink = jnp.exp2(maximum - new_maximum)
    total = total * shrink + jnp.sum(weights, axis=1)
    result = result * mosaic.per_row(shrink, result)
    # Keeps the compiler from moving any of this past the turn on the tensor cores.
    return lax.optimization_barrier((weights.astype(dtype), total, new_maximum, result))
