"""What the Mosaic GPU kernels share: warpgroups, tiles in shared memory, products.

A block of threads is three warpgroups. The last, the producer, streams tiles into shared memory
with bulk copies (TMA). The others, the consumers, each hold some rows of the problem for the whole
kernel and multiply them with wgmma, sums in registers. A block knows its place by the axes
"batch", "head", "block" (of rows) and "warpgroup".
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
"""Consumer warpgroups of a block; the producer's index is the next."""

CONSUMER_REGISTERS = 240
PRODUCER_REGISTERS = 24
"""A thread's, once the warpgroups have shared out what they start with, 168 each."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Rows of a kernel's tiles.

    Shared memory: 2 hd bytes a row and array (256 at hd 128) times (CONSUMERS * rows * held arrays
    + stages * streamed * streamed arrays), of 227 KiB a block.
    """

    rows: int
    """Of each consumer, for the whole kernel; one wgmma computes 64."""
    streamed: int
    """Of a block that streams past them."""
    stages: int
    """Blocks in shared memory at a time: how far copies run ahead of products."""


def call(kernel, tiles, scale, rows_of, out_type, scratch):
    """A launcher of `kernel` on a grid of (batch, head, block of rows of `rows_of`)."""
    batch, length, num_heads, _ = rows_of.shape
    return plgpu.kernel(
        functools.partial(kernel, tiles=tiles, scale=scale),
        out_type=out_type,
        scratch_types=scratch,
        # The last axis runs fastest: blocks that run together stream the same head through L2.
        grid=(batch, num_heads, length // (CONSUMERS * tiles.rows)),
        grid_names=("batch", "head", "block"),
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
    """Per consumer: its rows have arrived, by that many copies."""
    return plgpu.Barrier(num_arrivals=copies, num_barriers=CONSUMERS)


def ring_full(tiles, copies=1):
    """Per slot: a block has arrived, by that many copies."""
    return plgpu.Barrier(num_arrivals=copies, num_barriers=tiles.stages)


def ring_free(tiles):
    """Per slot: all consumers are done with the block."""
    return plgpu.Barrier(num_arrivals=CONSUMERS, num_barriers=tiles.stages)


def position():
    """Indices of batch, head, block and warpgroup."""
    return tuple(lax.axis_index(name) for name in ("batch", "head", "block", "warpgroup"))


def consumer_rows(tiles, block, consumer):
    """The rows that a consumer holds."""
    return pl.ds((block * CONSUMERS + consumer) * tiles.rows, tiles.rows)


def num_key_blocks(length, tiles):
    """At least one, so that the last block of keys can always be the masked one."""
    return jnp.maximum(lax.div(length + (tiles.streamed - 1), tiles.streamed), 1)


def valid_keys(shape, axis, first, length):
    """Whether the keys that run along `axis` from `first` on are within the length."""
    return first + lax.broadcasted_iota(jnp.int32, shape, axis) < length


def produce(steps, tiles, *rings):
    """The producer: fills slot `step % stages` of the rings at every step.

    Args:
      rings: pairs of `ring_free` barriers and start(step, slot), which starts the copies.
    """
    plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")

    # Ends when all slots are free again, so that no barrier completes unseen.
    @pl.loop(0, steps + tiles.stages)
    def _(step):
        slot = lax.rem(step, tiles.stages)
        for free, start in rings:
            pl.when(step >= tiles.stages)(functools.partial(plgpu.barrier_wait, free.at[slot]))
            pl.when(step < steps)(functools.partial(start, step, slot))


def be_consumer():
    """A consumer's first words."""
    plgpu.set_max_registers(CONSUMER_REGISTERS, action="increase")


def multiply(issue, *sums):
    """Runs issue(accumulators), which starts products; the sums with all of them added."""
    return pl.run_state(issue)(tuple(plgpu.ACC.init(x) for x in sums))


def zeros(*shape):
    return jnp.zeros(shape, jnp.float32)


def transpose(tile):
    return tile.transpose((1, 0))


def per_row(x, like):
    return lax.broadcast_in_dim(x, like.shape, (0,))


def per_column(x, like):
    return lax.broadcast_in_dim(x, like.shape, (1,))


def write(*copies):
    """Copies (tile, destination) out of shared memory."""
    plgpu.commit_smem()
    for tile, destination in copies:
        plgpu.copy_smem_to_gmem(tile, destination)
    plgpu.wait_smem_to_gmem(0)
