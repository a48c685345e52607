"""Runs the kernels for Hopper GPUs on a CPU, by JAX's interpreter of Mosaic GPU kernels.

The interpreter runs the warpgroups as threads, with their barriers, copies and shared memory, and
finds races between them. It knows neither `run_state` nor products of registers: `_TensorCores`
stands in for wgmma.
"""

import contextlib
import types
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

plgpu = pytest.importorskip(
    "jax.experimental.pallas.mosaic_gpu", reason="this jax has no Mosaic GPU"
)
interpret = pytest.importorskip(
    "jax._src.pallas.mosaic_gpu.interpret.params",
    reason="this jax cannot interpret Mosaic GPU kernels",
)
interpret_call = pytest.importorskip(
    "jax._src.pallas.mosaic_gpu.interpret.interpret_pallas_call",
    reason="this jax cannot interpret Mosaic GPU kernels",
)


class _TensorCores:
    """wgmma as late as its waits allow: products are computed when they are waited for.

    Operands in shared memory are read then, so that one given back too early shows.
    """

    def __init__(self):
        self.pending = []

    def run_state(self, issue):
        def run(sums):
            refs = tuple(types.SimpleNamespace(value=x) for x in sums)
            issue(refs)
            self.wait(0)
            return tuple(ref.value for ref in refs)

        return run

    def wgmma(self, accumulator, left, right):
        self.pending.append((accumulator, left, right))

    def wait(self, allowed):
        while len(self.pending) > allowed:
            accumulator, left, right = self.pending.pop(0)
            product = jnp.dot(_read(left), _read(right), preferred_element_type=jnp.float32)
            accumulator.value = accumulator.value + product
            # The tensor cores read as the copies write, without a fence between the two.
            plgpu.commit_smem()

    def load(self, accumulator, *, wait_n):
        self.wait(wait_n)
        assert all(accumulator is not pending for pending, *_ in self.pending), "not waited for"
        return accumulator.value


def _read(operand):
    """The value of registers or of a tile, which may be transposed."""
    if isinstance(operand, jax.Array):
        return operand
    *tile, last = operand.transforms
    if isinstance(last, jax._src.state.types.TransposeTransform):
        return type(operand)(operand.ref, tuple(tile))[...].T
    return operand[...]


def _loop(lower, upper):
    """`pl.loop`, unrolled where its bounds are known: the stand-in's sums are no loop's state."""

    def run(body):
        if isinstance(lower, int) and isinstance(upper, int):
            for step in range(lower, upper):
                body(step)
        else:
            _traced_loop(lower, upper)(body)

    return run


_traced_loop = pl.loop


@contextlib.contextmanager
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Yields run(f, *args, detect_races=True): f of a module of kernels.

    It fails where warpgroups race, unless it is told not to look.
    """
    cores = _TensorCores()
    monkeypatch.setattr(pl, "run_state", cores.run_state)
    monkeypatch.setattr(pl, "loop", _loop)
    monkeypatch.setattr(plgpu, "ACC", types.SimpleNamespace(init=lambda x: x))
    monkeypatch.setattr(plgpu, "wgmma", cores.wgmma)
    monkeypatch.setattr(plgpu, "wgmma_wait", cores.wait)
    monkeypatch.setattr(plgpu, "wgmma_accumulator_load", cores.load)

    def run(f, *args, detect_races=True):
        params = interpret.InterpretGPUParams(detect_races=detect_races)
        with interpret.force_gpu_interpret_mode(params):
            result = jax.tree.map(np.asarray, f(*args))
        assert not (detect_races and interpret_call.get_races().races_found)
        return result

    # The interpreter compiles every warpgroup of every block anew.
    optimize = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield run
    jax.config.update("jax_disable_most_optimizations", optimize)
    interpret_call.reset_gpu_interpret_mode_state()
