"""A bound on the time of a compiled program: the roofline model, summed over its kernels.

Each kernel takes the longer of its products at the device's product rate and its bytes at the
memory's bandwidth, plus a launch (Williams et al. 2009, "Roofline"). Kernels run one after the
other. This is arithmetic over the compiler's plan, with perfect kernels; it is no measurement.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

from rf_jax.planning import kernels
from rf_jax.planning.gpus import REACHED_BANDWIDTH, Gpu
from rf_jax.planning.hlo import Instruction, Module

LAUNCH_SECONDS = 2e-6
"""Time between the starts of two kernels that do nothing."""

HOST_SECONDS = 10e-6
"""Time of a conditional, for which the device waits until the host has read the predicate."""

_NO_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "async-done", "async-update", "copy-done", "fusion-done", "iota",
    *(f"{name}-done" for name in kernels.COLLECTIVES),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a program, and all its runs together.

    Attributes:
      kind: "product", "attention", "convolution", "collective", "conditional" or "other".
      label: the JAX operation that it came from, or its name.
      runs: how often it runs.
      flops: of its products, of all runs.
      bytes: that it moves in the device's memory, or sends to other devices, of all runs.
      product_seconds: the products alone.
      seconds: the bound on all runs.
    """

    kind: str
    label: str
    runs: int
    flops: float
    bytes: float
    product_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The kernels of a program on one device.

    Attributes:
      kernels: in the order in which they first run.
      unknown_loops: number of loops whose length the compiler does not know; they count as one run
        of their body.
    """

    kernels: tuple[Kernel, ...]
    unknown_loops: int

    @property
    def seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def product_seconds(self) -> float:
        return sum(kernel.product_seconds for kernel in self.kernels)

    @property
    def flops(self) -> float:
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def runs(self) -> int:
        return sum(kernel.runs for kernel in self.kernels)

    @property
    def product_share(self) -> float:
        """The part of the bound that is products; 1 if all other work were free."""
        return self.product_seconds / self.seconds if self.kernels else 0.0

    def of_kind(self, kind: str) -> list[Kernel]:
        return [kernel for kernel in self.kernels if kernel.kind == kind]

    def largest(self, count: int) -> list[tuple[str, str, float]]:
        """The kinds and operations (kind, label, seconds) that take longest."""
        totals: collections.Counter[tuple[str, str]] = collections.Counter()
        for kernel in self.kernels:
            totals[kernel.kind, kernel.label] += kernel.seconds
        return [(*key, seconds) for key, seconds in totals.most_common(count)]


def roofline(module: Module, gpu: Gpu, devices: int) -> Roofline:
    """The bound of a module that was compiled for `devices` GPUs, on each of them."""
    unknown: list[str] = []
    found = tuple(_walk(module, module.entry, 1, gpu, devices, unknown))
    return Roofline(found, len(unknown))


def _walk(
    module: Module, name: str, runs: int, gpu: Gpu, devices: int, unknown: list[str]
) -> Iterator[Kernel]:
    """The kernels of a computation that runs `runs` times."""
    computation = module.computations[name]
    for instruction in computation:
        if instruction.opcode in _NO_KERNEL:
            continue
        if instruction.opcode == "while":
            if instruction.trip_count is None:
                unknown.append(instruction.name)
            trips = runs * (instruction.trip_count or 1)
            yield from _walk(module, instruction.body, trips, gpu, devices, unknown)
        elif instruction.opcode == "conditional":
            seconds = runs * HOST_SECONDS
            yield Kernel("conditional", _label(instruction), runs, 0, 0, 0, seconds)
            yield from _longest_branch(module, instruction, runs, gpu, devices, unknown)
        elif instruction.opcode in ("call", "async-start"):
            for called in instruction.called:
                yield from _walk(module, called, runs, gpu, devices, unknown)
        elif kernels.collective(instruction):
            sent = runs * kernels.sent_bytes(computation, instruction, devices)
            seconds = sent / (REACHED_BANDWIDTH * gpu.link) + runs * LAUNCH_SECONDS
            kind = kernels.collective(instruction)
            yield Kernel("collective", kind, runs, 0, sent, 0, seconds)
        else:
            yield _kernel(module, computation, instruction, runs, gpu)


def _longest_branch(module, instruction, runs, gpu, devices, unknown) -> list[Kernel]:
    branches = [
        list(_walk(module, name, runs, gpu, devices, unknown)) for name in instruction.called
    ]
    return max(branches, key=lambda branch: sum(x.seconds for x in branch), default=[])


def _kernel(module, computation, instruction, runs: int, gpu: Gpu) -> Kernel:
    flops = runs * kernels.flops(module, computation, instruction)
    bytes_moved = runs * kernels.traffic(module, computation, instruction)
    rate = gpu.product_rate(kernels.precision(module, computation, instruction))
    products, memory = flops / rate, bytes_moved / (REACHED_BANDWIDTH * gpu.bandwidth)
    seconds = max(products, memory) + runs * LAUNCH_SECONDS
    kind = _kind(instruction, flops)
    return Kernel(kind, _label(instruction), runs, flops, bytes_moved, products, seconds)


def _kind(instruction: Instruction, flops: float) -> str:
    target = instruction.target
    if "conv" in target:
        return "convolution"
    if "fmha" in target or (flops and kernels.is_flash(instruction)):
        return "attention"
    return "product" if flops else "other"


def _label(instruction: Instruction) -> str:
    """The last parts of the operation's path, without the numbers that tell copies apart."""
    path = instruction.source or re.sub(r"[._]?\d+", "", instruction.name)
    return "/".join(path.split("/")[-3:])
