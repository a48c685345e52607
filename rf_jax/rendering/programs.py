"""Compiled functions of the renderer, and the time that they take."""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any

import jax


class Programs:
    """Compiles functions once per combination of shapes, and runs one after the other.

    Attributes:
      seconds: wall time that callers waited so far, by the name of a stage, and "compile".
      program_bytes: memory that the latest program of each stage needs on a device, its arguments
        included.
    """

    def __init__(self):
        self.seconds: collections.Counter[str] = collections.Counter()
        self.program_bytes: dict[str, int] = {}
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self._running: tuple[str, Any] | None = None  # the stage on the device, and its result

    def start(self, stage: str, function: Callable, *args: Any, **static: Any) -> Any:
        """Starts a function when the one before it has ended, and returns its coming result.

        Args:
          stage: whose time it is; a stage has one function.
          function: takes `args`, which are trees of arrays, and `static`, which it is compiled for.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
        program = (stage, structure, shapes, *static.values())
        if program not in self._compiled:
            start = time.perf_counter()
            lowered = jax.jit(functools.partial(function, **static)).lower(*args)
            self._compiled[program] = compiled = lowered.compile()
            self.program_bytes[stage] = _memory_bytes(compiled)
            self.seconds["compile"] += time.perf_counter() - start
        self.wait()
        start = time.perf_counter()
        result = self._compiled[program](*args)
        self._running = stage, result
        self.seconds[stage] += time.perf_counter() - start
        return result

    def wait(self) -> None:
        """Waits for the running function."""
        if self._running is not None:
            stage, result = self._running
            start = time.perf_counter()
            jax.block_until_ready(result)
            self.seconds[stage] += time.perf_counter() - start
            self._running = None


def _memory_bytes(compiled: jax.stages.Compiled) -> int:
    analysis = compiled.memory_analysis()
    sizes = (
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.temp_size_in_bytes,
    )
    return sum(sizes)
