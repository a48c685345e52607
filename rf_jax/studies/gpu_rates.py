"""Measures in minutes what a GPU does with the published networks; writes one CSV file.

    %(prog)s --csv gpu.csv                      # on a GPU with 80 GB
    %(prog)s --csv smoke.csv --smoke            # tiny sizes, to see on a CPU that it runs

The programs are compiled first, several at a time, and then timed one by one. What is not compiled
or timed when the minutes are over is left out, and named.
"""

import argparse
import csv
import dataclasses
import importlib.metadata
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.config_files import load_config_file
from rf_jax.errors import one_line
from rf_jax.models import VARIANTS
from rf_jax.models.flops import measure_product_rate
from rf_jax.processes import cpu_count
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene.random_scene import random_scene
from rf_jax.studies.benchmark import PUBLISHED_TRIANGLES
from rf_jax.studies.gpu_cases import (
    Case,
    attention_cases,
    feed_forward_cases,
    stage_cases,
    training_case,
)
from rf_jax.studies.precision import compare
from rf_jax.training.config import TrainingConfig
from rf_jax.weights.random_weights import random_variables

COMPILE_SHARE, TIMING_SHARE = 0.55, 0.85
"""Shares of the time after which programs that are not compiled, or not timed, are left out."""

SECONDS_PER_CASE = 0.5
"""How long a program is repeated, at least `MIN_REPEATS` times."""

MIN_REPEATS = 3

VERSIONS = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
"""Packages whose versions are written into each row."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    variants: tuple[str, ...] = ("v1_base", "v1.1_large_swin")
    attentions: tuple[str, ...] = ("auto", "flash")
    keys: tuple[int, ...] = (4096, 8192, 16_384, 32_768, 65_536)
    tokens: tuple[int, ...] = (5120, 65_536)
    triangles: tuple[int, ...] = PUBLISHED_TRIANGLES
    resolution: int = 512
    training: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("base_256", ("--config.batch_size=8",)),
        ("base_256", ("--config.batch_size=8", "--config.model.feed_forward=fused")),
        ("base_256", ("--config.batch_size=16", "--config.remat=True")),
    )
    frames: tuple[int, ...] = (1161, 4894)
    frame_count: int = 24
    product_tokens: int = 8192


SMOKE = Sizes(
    variants=("testing",),
    keys=(256,),
    tokens=(128,),
    triangles=(5,),
    resolution=16,
    training=(("debug", ("--config.data.resolution=16", "--config.data.max_triangles=8")),),
    frames=(5,),
    frame_count=2,
    product_tokens=64,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      part: "attention", "feed-forward", "stage", "training", "frames" or "error".
      network, what, precision, size: as in `Case`.
      value, unit: what was measured; times are medians.
      spread: (max - min) / median of the times.
      tflops_per_second: the operations that are needed, over the time.
      fraction_of_product_rate: the same rate over that of matrix products.
      memory_gib: what the program needs, arguments included.
    """

    part: str
    network: str
    what: str
    precision: str
    size: int
    value: float
    unit: str
    spread: float | None = None
    tflops_per_second: float | None = None
    fraction_of_product_rate: float | None = None
    memory_gib: float | None = None


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="where the rows are written, as they come")
    add("--seconds", type=float, default=450.0, help="how long all of it may take")
    add("--smoke", action="store_true", help="tiny sizes")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # The scenes are random and unlike those of the training data.
    logging.getLogger("rf_jax.scene.check").setLevel(logging.ERROR)
    start = time.monotonic()
    sizes = SMOKE if args.smoke else Sizes()
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        write = _writer(file)
        for row in measure_cases(list(_cases(sizes)), sizes, start, args.seconds):
            write(row)
        for measure in (error_rows, frame_rows):
            if time.monotonic() > start + args.seconds:
                print(f"left out: {measure.__name__.removesuffix('_rows')}; the time is over")
                continue
            for row in measure(sizes):
                write(row)


def _cases(sizes: Sizes) -> Iterator[Case]:
    """In the order of how much one wants to know them."""
    for name, changes in sizes.training:
        yield training_case(name, load_config_file(TrainingConfig, name, changes))
    for variant in sizes.variants:
        yield from stage_cases(variant, ["fp16", "bf16"], list(sizes.triangles), sizes.resolution)
    yield from attention_cases(sizes.variants[0], list(sizes.attentions), list(sizes.keys))
    yield from feed_forward_cases(sizes.variants[0], list(sizes.tokens))


def measure_cases(cases: list[Case], sizes: Sizes, start: float, seconds: float) -> Iterator[Row]:
    """Compiles all cases, then times each; prints what is left out, and why.

    Args:
      cases: what to measure, most wanted first.
      sizes: for the products that rates are compared with.
      start: the moment of `time.monotonic` from which `seconds` count.
      seconds: how long everything may take.
    """
    compiled = _compile(cases, start + COMPILE_SHARE * seconds)
    rates: dict[str, float] = {}
    for case, program in compiled:
        if time.monotonic() > start + TIMING_SHARE * seconds:
            print(f"left out: {case.name}; the time is over")
            continue
        if case.precision not in rates:
            rates[case.precision] = measure_product_rate(
                VARIANTS[sizes.variants[0]], sizes.product_tokens, PRECISIONS[case.precision]
            )
        try:
            yield _timed(case, program, rates[case.precision])
        except RuntimeError as error:  # out of memory, or a kernel that this device refuses
            print(f"left out: {case.name}; {one_line(error)}")


def _compile(cases: list[Case], until: float) -> list[tuple[Case, jax.stages.Compiled]]:
    """Compiles several cases at a time, until a moment of `time.monotonic`."""
    done = []
    pool = ThreadPoolExecutor(max(cpu_count() // 2, 1))
    futures: list[Future] = [
        pool.submit(lambda case=case: case.lower().compile()) for case in cases
    ]
    for case, future in zip(cases, futures, strict=True):
        try:
            done.append((case, future.result(timeout=max(until - time.monotonic(), 0))))
        except NotInTime:
            print(f"left out: {case.name}; compiling took too long")
        except Exception as error:  # what a compiler refuses is a result as well
            print(f"left out: {case.name}; {one_line(error)}")
    pool.shutdown(wait=False, cancel_futures=True)
    return done


def _timed(case: Case, program: jax.stages.Compiled, product_rate: float) -> Row:
    arguments = case.arguments()
    result = jax.block_until_ready(program(*arguments))
    times: list[float] = []
    while len(times) < MIN_REPEATS or sum(times) < SECONDS_PER_CASE:
        if case.steps:
            arguments = (result[0], *arguments[1:])
        start = time.perf_counter()
        result = jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    sizes = program.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    memory += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    rate = case.flops / median
    return Row(
        case.part,
        case.network,
        case.what,
        case.precision,
        case.size,
        median,
        "s",
        (max(times) - min(times)) / median,
        rate / 1e12,
        rate / product_rate,
        memory / 2**30,
    )


def error_rows(sizes: Sizes) -> Iterator[Row]:
    """The error of images in 16-bit types against float32, with random weights."""
    variant, scene = sizes.variants[0], random_scene(sizes.triangles[0])
    variables = random_variables(VARIANTS[variant], seed=0)
    images = {
        name: Renderer(variables, VARIANTS[variant], name).render(scene, sizes.resolution)
        for name in PRECISIONS
    }
    for name in ("fp16", "bf16"):
        error, decibels = compare(images[name], images["fp32"])
        for unit, value in (("relative error", error), ("dB", decibels)):
            yield Row("error", variant, "image against fp32", name, sizes.triangles[0], value, unit)


def frame_rows(sizes: Sizes) -> Iterator[Row]:
    """Frames per second of a scene that changes in each frame, from the scene to NumPy images."""
    variant = sizes.variants[0]
    renderer = Renderer(random_variables(VARIANTS[variant], seed=0), VARIANTS[variant], "fp16")
    for size in sizes.frames:
        scene = random_scene(size)
        renderer.render(scene, sizes.resolution)  # compiles
        times = []
        for i in range(sizes.frame_count):
            start = time.perf_counter()
            moved = scene.replace(triangles=scene.triangles + np.float32(0.001 * i))
            renderer.render(moved, sizes.resolution)
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        spread = (max(times) - min(times)) / median
        what = f"changing scene at {sizes.resolution}x{sizes.resolution}"
        yield Row("frames", variant, what, "fp16", size, 1 / median, "frames/s", spread)


def _writer(file: TextIO) -> Callable[[Row], None]:
    """A function that writes and prints a row, with the device and the versions behind it."""
    columns = [field.name for field in dataclasses.fields(Row)]
    versions = _versions()
    writer = csv.writer(file)
    writer.writerow([*columns, "device", *versions])
    device = jax.devices()[0].device_kind

    def write(row: Row) -> None:
        writer.writerow([*dataclasses.astuple(row), device, *versions.values()])
        file.flush()
        share = row.fraction_of_product_rate
        of_products = "" if share is None else f", {share:.1%} of products"
        print(
            f"{row.part}: {row.network}, {row.what}, {row.precision}, {row.size:,}: "
            f"{row.value:.4g} {row.unit}{of_products}",
            flush=True,
        )

    return write


def _versions() -> dict[str, Any]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


if __name__ == "__main__":
    run_command_line(main)
