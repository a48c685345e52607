"""The products of SwiGLU with its gate in one kernel, for Hopper GPUs and 16-bit inputs.

XLA writes both products, silu(x w1) and x w3, and reads them again to multiply them. Here a tile of
both is multiplied before it leaves the chip, and in the gradient a tile of the hidden layer's
gradient becomes those of both products. The kernels are in Pallas' Mosaic GPU, with the warpgroups
of `rf_jax.attention.mosaic`. Sums are float32.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from rf_jax.attention import mosaic

TILES = mosaic.Tiles(rows=64, streamed=64, stages=4)
"""Each consumer has 64 rows of a tile, and a stage has 64 terms of the sums of its products. Stages
take 192 KiB forward and results 32 KiB; backward they take 128 KiB and 64 KiB."""

COLUMNS = 128
"""Columns of a tile of the hidden layer."""

ROWS = mosaic.CONSUMERS * TILES.rows
"""Rows of a tile."""

ROW_MULTIPLE = 8
"""Tiles begin at multiples of this, as their layout in shared memory demands."""


def takes(dtype: jnp.dtype, rows: int, width: int, hidden: int) -> bool:
    """Whether the kernels take x [rows, width] and a hidden layer [rows, hidden] of this type."""
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits = rows >= ROWS and rows % ROW_MULTIPLE == 0
    return half and fits and width % TILES.streamed == 0 and hidden % COLUMNS == 0


def forward(x: jax.Array, w1: jax.Array, w3: jax.Array, keep: bool) -> tuple[jax.Array, ...]:
    """silu(x w1) * (x w3) for x [T, D] and kernels [D, F].

    Args:
      keep: whether both products are results too, as the gradient needs them.

    Returns:
      the hidden layer [T, F]; with `keep` also x w1 and x w3.
    """
    rows, hidden = x.shape[0], w1.shape[1]
    results = (jax.ShapeDtypeStruct((rows, hidden), x.dtype),) * (3 if keep else 1)
    return _call(
        swiglu_forward,
        (rows, hidden),
        results,
        scratch=dict(
            rings=(
                plgpu.SMEM((TILES.stages, ROWS, TILES.streamed), x.dtype),
                plgpu.SMEM((TILES.stages, TILES.streamed, COLUMNS), x.dtype),
                plgpu.SMEM((TILES.stages, TILES.streamed, COLUMNS), x.dtype),
            ),
            full=mosaic.ring_full(TILES, copies=3),
            free=mosaic.ring_free(TILES),
            out=plgpu.SMEM((mosaic.CONSUMERS, TILES.rows, COLUMNS), x.dtype),
        ),
    )(x, w1, w3)


def backward(d_out: jax.Array, w2: jax.Array, first: jax.Array, gate: jax.Array) -> jax.Array:
    """The gradients of both products, beside each other: [T, 2 F], in the type of d_out.

    Args:
      d_out: [T, D], the gradient of hidden w2.
      w2: [F, D].
      first, gate: [T, F], x w1 and x w3.
    """
    rows, hidden = first.shape
    rings = (
        plgpu.SMEM((TILES.stages, ROWS, TILES.streamed), d_out.dtype),
        plgpu.SMEM((TILES.stages, COLUMNS, TILES.streamed), d_out.dtype),
    )
    held = plgpu.SMEM((mosaic.CONSUMERS, TILES.rows, COLUMNS), d_out.dtype)
    return _call(
        swiglu_backward,
        (rows, hidden),
        jax.ShapeDtypeStruct((rows, 2 * hidden), d_out.dtype),
        scratch=dict(
            rings=rings,
            full=mosaic.ring_full(TILES, copies=2),
            free=mosaic.ring_free(TILES),
            held=(held, held),
            held_full=mosaic.held_full(copies=2),
        ),
    )(d_out, w2, first, gate)


def _call(kernel, shape, results, scratch):
    """A launcher of a kernel on a grid of tiles of the hidden layer [rows, hidden].

    Each block computes several tiles of its rows, so that the first copies of a tile run during the
    arithmetic on the one before.
    """
    columns = shape[1] // COLUMNS
    tiles = next(n for n in (4, 3, 2, 1) if columns % n == 0)
    # The last axis runs fastest: the weights stay in L2, and rows are read from memory once.
    grid = dict(row=pl.cdiv(shape[0], ROWS), column=columns // tiles)
    return mosaic.launcher(kernel, grid, results, scratch, num_tiles=tiles)


def swiglu_forward(x, w1, w3, *results, rings, full, free, out, num_tiles):
    """The kernel of the forward pass; keyword arguments up to `out` are shared memory."""
    row, column, warpgroup = (lax.axis_index(name) for name in ("row", "column", "warpgroup"))
    steps = x.shape[1] // TILES.streamed

    @pl.when(warpgroup == mosaic.CONSUMERS)
    def _():
        def parts(index, depth):
            columns = _columns(column, num_tiles, index)
            return x.at[_rows(x, row), depth], w1.at[depth, columns], w3.at[depth, columns]

        _produce(parts, num_tiles, steps, rings, full, free)

    @pl.when(warpgroup < mosaic.CONSUMERS)
    def _():
        mosaic.be_consumer()
        mine = pl.ds(warpgroup * TILES.rows, TILES.rows)
        rows = pl.ds(_rows(x, row).start + mine.start, TILES.rows)
        tile = out.at[warpgroup]

        def issue(refs, slot):
            for sums, weights in zip(refs, rings[1:], strict=True):
                plgpu.wgmma(sums, rings[0].at[slot, mine], weights.at[slot])

        @pl.loop(0, num_tiles)
        def _(index):
            sums = [mosaic.zeros(TILES.rows, COLUMNS)] * 2
            both = _products(issue, sums, index * steps, steps, full, free)
            # The gradient sees the products as they are stored, so the gate does as well.
            first, gate = (product.astype(tile.dtype) for product in both)
            wide = first.astype(jnp.float32)
            hidden = wide * _sigmoid(wide) * gate.astype(jnp.float32)
            values = (hidden.astype(tile.dtype), first, gate)[: len(results)]
            columns = _columns(column, num_tiles, index)
            for value, result in zip(values, results, strict=True):
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                tile[...] = value
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(tile, result.at[rows, columns])

        plgpu.wait_smem_to_gmem(0)


def swiglu_backward(
    d_out, w2, first, gate, d_both, *, rings, full, free, held, held_full, num_tiles
):
    """The kernel of the gradient; keyword arguments up to `held_full` are shared memory.

    A consumer's parts of both products arrive during the product d_out w2^T, and their gradients
    take their place.
    """
    row, column, warpgroup = (lax.axis_index(name) for name in ("row", "column", "warpgroup"))
    steps = d_out.shape[1] // TILES.streamed

    @pl.when(warpgroup == mosaic.CONSUMERS)
    def _():
        def parts(index, depth):
            columns = _columns(column, num_tiles, index)
            return d_out.at[_rows(d_out, row), depth], w2.at[columns, depth]

        _produce(parts, num_tiles, steps, rings, full, free)

    @pl.when(warpgroup < mosaic.CONSUMERS)
    def _():
        mosaic.be_consumer()
        mine = pl.ds(warpgroup * TILES.rows, TILES.rows)
        rows = pl.ds(_rows(d_out, row).start + mine.start, TILES.rows)
        tiles, here = [tile.at[warpgroup] for tile in held], held_full.at[warpgroup]

        def issue(refs, slot):
            weights = mosaic.transpose(rings[1].at[slot])
            plgpu.wgmma(refs[0], rings[0].at[slot, mine], weights)

        @pl.loop(0, num_tiles)
        def _(index):
            columns = _columns(column, num_tiles, index)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for source, tile in zip((first, gate), tiles, strict=True):
                plgpu.copy_gmem_to_smem(source.at[rows, columns], tile, here)
            sums = [mosaic.zeros(TILES.rows, COLUMNS)]
            (d_hidden,) = _products(issue, sums, index * steps, steps, full, free)
            plgpu.barrier_wait(here)
            wide, factor = (tile[...].astype(jnp.float32) for tile in tiles)
            sigmoid = _sigmoid(wide)
            d_gate = d_hidden * wide * sigmoid
            d_first = d_hidden * factor * sigmoid * (1.0 + wide * (1.0 - sigmoid))
            for tile, value in zip(tiles, (d_first, d_gate), strict=True):
                tile[...] = value.astype(tile.dtype)
            plgpu.commit_smem()
            right = pl.ds(first.shape[1] + columns.start, COLUMNS)
            for tile, place in zip(tiles, (columns, right), strict=True):
                plgpu.copy_smem_to_gmem(tile, d_both.at[rows, place])

        plgpu.wait_smem_to_gmem(0)


def _rows(x, row):
    """The rows of a block. The last one has rows of the one before, if the others are too few."""
    return pl.ds(jnp.minimum(row * ROWS, x.shape[0] - ROWS), ROWS)


def _columns(column, num_tiles, index):
    """The columns of a block's tile."""
    return pl.ds((column * num_tiles + index) * COLUMNS, COLUMNS)


def _produce(parts, num_tiles, steps, rings, full, free):
    """Runs the producer of a block's tiles.

    Args:
      parts: (index of a tile, slice of its sums' terms) -> what is copied into each ring.
      num_tiles: of the block.
      steps: stages of each tile.
      rings: shared memory for the operands.
      full, free: the barriers of the rings.
    """

    def start(step, slot):
        depth = pl.ds(lax.rem(step, steps) * TILES.streamed, TILES.streamed)
        for part, ring in zip(parts(lax.div(step, steps), depth), rings, strict=True):
            plgpu.copy_gmem_to_smem(part, ring.at[slot], full.at[slot])

    mosaic.produce(num_tiles * steps, TILES, (free, start))


def _products(issue, sums, first, steps, full, free):
    """Adds the products of some steps of the rings, each issued while the one before still runs.

    Args:
      issue: (accumulators, slot) starts a product for each accumulator.
      sums: what they start with.
      first: the first step.
      steps: their number.
      full, free: the barriers of the rings.
    """

    def issue_all(refs):
        @pl.loop(0, steps)
        def _(step):
            slot = lax.rem(first + step, TILES.stages)
            plgpu.barrier_wait(full.at[slot])
            issue(refs, slot)
            plgpu.wgmma_wait(len(refs))

            @pl.when(step > 0)
            def _():
                plgpu.barrier_arrive(free.at[lax.rem(first + step - 1, TILES.stages)])

        plgpu.wgmma_wait(0)
        plgpu.barrier_arrive(free.at[lax.rem(first + steps - 1, TILES.stages)])

    return mosaic.multiply(issue_all, *sums)


def _sigmoid(x):
    return 1.0 / (1.0 + jnp.exp2(-x * mosaic.LOG2_E))
