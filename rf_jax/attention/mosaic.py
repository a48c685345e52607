"""What the Mosaic GPU kernels share: warpgroups, tiles in shared memory, products.

A block of threads consists of three warpgroups. The last, the producer, streams tiles into shared
memory with bulk copies (TMA). The other two, the consumers, each hold some rows of the problem for
the whole kernel and multiply them with wgmma, with sums in registers. The axes "batch", "head",
"block" (of rows) and "warpgroup" tell a warpgroup its place.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

LOG2_E = math.log2(math.e)

CONSUMERS = 2
"""Number of consumer warpgroups per block; it is also the index of the producer."""

CONSUMER_REGISTERS = 240
PRODUCER_REGISTERS = 24
"""Registers per thread, after the warpgroups have redistributed the 168 that each starts with."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The sizes of a kernel's tiles.

    A row of an array takes 2 hd bytes of shared memory (256 at hd 128). There are CONSUMERS * rows
    rows of each array that is held and stages * streamed rows of each array that is streamed, and
    they must fit in the 227 KiB of a block.

    Attributes:
      rows: rows that each consumer holds for the whole kernel; one wgmma computes 64.
      streamed: rows per block that streams past them.
      stages: blocks in shared memory at a time, which is how far copies run ahead of products.
    """

    rows: int
    streamed: int
    stages: int


def call(kernel, tiles, scale, rows_of, out_type, scratch):
    """A launcher of a kernel on a grid of (batch, head, block of rows).

    Args:
      kernel: takes references to operands and results, those of `scratch` by name, `tiles` and
        `scale`.
      tiles: its `Tiles`.
      scale: factor of the scores.
      rows_of: [B, T, nh, hd], the array whose rows the consumers hold.
      out_type: shapes and types of the results.
      scratch: shared memory and barriers by name.
    """
    batch, length, num_heads, _ = rows_of.shape
    # The last axis runs fastest, so blocks that run together stream the same head through L2.
    grid = dict(batch=batch, head=num_heads, block=length // (CONSUMERS * tiles.rows))
    return launcher(kernel, grid, out_type, scratch, tiles=tiles, scale=scale)


def launcher(kernel, grid, out_type, scratch, **options):
    """A launcher of a kernel on a grid, with the warpgroups of this module.

    Args:
      kernel: takes references to operands and results, and by name those of `scratch` and the
        options.
      grid: number of blocks along each axis by its name; the last axis runs fastest.
      out_type: shapes and types of the results.
      scratch: shared memory and barriers by name.
      options: static keyword arguments.
    """
    return plgpu.kernel(
        functools.partial(kernel, **options),
        out_type=out_type,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=CONSUMERS + 1,
        thread_name="warpgroup",
        kernel_name=kernel.__name__,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )


def held(tiles, x):
    """Shared memory for the rows of x [B, T, nh, hd] that the consumers hold."""
    return plgpu.SMEM((CONSUMERS, tiles.rows, x.shape[-1]), x.dtype)


def held_statistics(tiles):
    """Shared memory for a number per held row."""
    return plgpu.SMEM((CONSUMERS, tiles.rows), jnp.float32)


def ring(tiles, x):
    """Shared memory for the blocks of x [B, T, nh, hd] that stream past."""
    return plgpu.SMEM((tiles.stages, tiles.streamed, x.shape[-1]), x.dtype)


def ring_statistics(tiles):
    """Shared memory for a number per streamed row."""
    return plgpu.SMEM((tiles.stages, tiles.streamed), jnp.float32)


def held_full(copies=1):
    """One barrier per consumer: its rows have arrived, in that many copies."""
    return plgpu.Barrier(num_arrivals=copies, num_barriers=CONSUMERS)


def ring_full(tiles, copies=1):
    """One barrier per slot of a ring: a block has arrived, in that many copies."""
    return plgpu.Barrier(num_arrivals=copies, num_barriers=tiles.stages)


def ring_free(tiles):
    """One barrier per slot of a ring: all consumers are done with the block."""
    return plgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=tiles.stages)


def position():
    """Indices of batch, head, block and warpgroup."""
    return tuple(lax.axis_index(name) for name in ("batch", "head", "block", "warpgroup"))


def consumer_rows(tiles, block, consumer):
    """The slice of the rows that a consumer holds."""
    return pl.ds((block * CONSUMERS + consumer) * tiles.rows, tiles.rows)


def num_key_blocks(length, tiles):
    """Number of blocks of keys; at least one, so that the last one can always be masked."""
    return jnp.maximum(lax.div(length + (tiles.streamed - 1), tiles.streamed), 1)


def valid_keys(shape, axis, first, length):
    """Mask of that shape: whether the keys along `axis`, from `first` on, are within the length."""
    return first + lax.broadcasted_iota(jnp.int32, shape, axis) < length


def produce(steps, tiles, *rings):
    """Runs the producer, which fills slot `step % stages` of the rings at every step.

    Args:
      steps: number of blocks to stream.
      tiles: the kernel's `Tiles`.
      rings: pairs of `ring_free` barriers and a function start(step, slot) that starts the copies.
    """
    plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")

    # Goes on until all slots are free again, so that every barrier is waited for.
    @pl.loop(0, steps + tiles.stages)
    def _(step):
        slot = lax.rem(step, tiles.stages)
        for free, start in rings:
            pl.when(step >= tiles.stages)(functools.partial(plgpu.barrier_wait, free.at[slot]))
            pl.when(step < steps)(functools.partial(start, step, slot))


def be_consumer():
    """Takes the registers that the producer gives up; a consumer begins with this."""
    plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")


def multiply(issue, *sums):
    """Runs issue(accumulators), which starts products, and returns the sums with these added."""
    return pl.run_state(issue)(tuple(plgpu.ACC.init(x) for x in sums))


def zeros(*shape):
    """Float32 zeros in registers."""
    return jnp.zeros(shape, jnp.float32)


def transpose(tile):
    """A reference to a tile in shared memory as its transpose."""
    return tile.transpose((1, 0))


def per_row(x, like):
    """Broadcasts x [rows] to the shape of `like` [rows, columns]."""
    return lax.broadcast_in_dim(x, like.shape, (0,))


def per_column(x, like):
    """Broadcasts x [columns] to the shape of `like` [rows, columns]."""
    return lax.broadcast_in_dim(x, like.shape, (1,))


def write(*copies):
    """Copies tiles out of shared memory, given as pairs (tile, destination)."""
    plgpu.commit_smem()
    for tile, destination in copies:
        plgpu.copy_smem_to_gmem(tile, destination)
    plgpu.wait_smem_to_gmem(0)
