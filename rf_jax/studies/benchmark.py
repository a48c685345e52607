"""Running time against triangle count: stages and attention functions side by side.

Every rate stands beside the device's own rate of matrix products, measured in the same run.

    %(prog)s                                       # the published counts
    %(prog)s --attention auto performer --plot times.png
    %(prog)s --triangles 5633 --resolution 256
    %(prog)s --triangles 65536 --layers 1          # memory at scale
    %(prog)s --variant v2_200m --attention sliding_sink auto --triangles 16384

Scenes of RenderFormer V2 have one material with a random latent, a random environment and one
light; they are drawn, so `--scene` is for V1 only.
"""

import argparse
import csv
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from rf_jax.attention import ATTENTIONS, get_attention
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.files import atomic_path
from rf_jax.images.figures import new_figure
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.models.flops import (
    context_flops,
    measure_product_rate,
    token_counts,
    view_flops,
    view_independent_flops,
)
from rf_jax.processes import keep_freed_memory
from rf_jax.rendering.generations import AnyScene
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene import load_scene
from rf_jax.scene.random_scene import random_scene
from rf_jax.weights.random_weights import random_variables

PUBLISHED_TRIANGLES = (1161, 4894, 21082, 28362, 65535)
"""Triangle counts in the timing table of the Performer course project."""

CPU_TERAFLOP = 6.0
"""Largest cost of the first stage on a CPU; larger cases are left out, and the table says so."""

STAGES = ("view-independent", "view-dependent")

V1_ATTENTION, V2_ATTENTION = ("auto", "performer"), ("sliding_sink", "auto")
"""What is compared unless the command line names others."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a stage, or both, with one attention function on one scene.

    Attributes:
      triangles: in the scene.
      attention: of the first stage.
      stage: one of `STAGES`, or "total".
      seconds: the median over the repeats.
      spread: (max - min) / median of the seconds.
      tflops_per_second: the operations that the stage needs, over the seconds.
      fraction_of_product_rate: the same rate over that of matrix products.
      memory_gib: what the stage's program needs, weights included.
    """

    triangles: int
    attention: str
    stage: str
    seconds: float
    spread: float
    tflops_per_second: float
    fraction_of_product_rate: float
    memory_gib: float


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--variant", choices=VARIANTS, default="v1_base", help="size of the network")
    add(
        "--triangles",
        type=int,
        nargs="+",
        help="triangle counts of random scenes (default: the published ones)",
    )
    add("--scene", help="a scene file to use (default: random triangles)")
    add("--resolution", type=int, default=256, help="image side in pixels")
    add("--precision", choices=PRECISIONS, default="fp32", help="type of matrix products")
    add(
        "--attention",
        nargs="+",
        help=f"{', '.join(ATTENTIONS)} (default: auto performer, for V2 sliding_sink auto)",
    )
    add("--layers", type=int, help="layers per stage (default: those of the variant)")
    add("--repeats", type=int, default=5, help="how often each program runs; the median counts")
    add("--csv", type=Path, help="also write the table here (default: no file)")
    add("--plot", type=Path, help="also plot seconds against triangles, PNG (default: no file)")
    args = parser.parse_args()
    if args.repeats < 1 or min(args.triangles or [1]) < 1:
        parser.error("--triangles and --repeats: expected positive numbers")
    is_v1 = VARIANTS[args.variant].v2 is None
    if args.scene and not is_v1:
        parser.error("--scene: is for networks of V1; choose --triangles for V2")
    args.attention = args.attention or (V1_ATTENTION if is_v1 else V2_ATTENTION)
    return args


def main() -> None:
    args = parse_args()
    keep_freed_memory()  # clearing pages would weigh as much as for all layers of a network
    config = VARIANTS[args.variant]
    if args.layers is not None:
        config = with_layers(config, args.layers)
    # A fresh cache makes the first compilation cold.
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        print(_device_line(args))
        rows = compare(config, args)
    if args.csv:
        save_csv(args.csv, rows)
    if args.plot:
        save_plot(args.plot, rows)


def compare(config: RenderFormerConfig, args: argparse.Namespace) -> list[Row]:
    """Times all attention functions on all scenes; prints what is left out, and why."""
    if args.scene:
        scenes = [load_scene(args.scene)]
    else:
        scenes = [random_scene(count, config) for count in args.triangles or PUBLISHED_TRIANGLES]
    rows: list[Row] = []
    for name in args.attention:
        attention = dataclasses.replace(
            config, view_independent_attention=name, view_dependent_attention=_view_attention(name)
        )
        variables = random_variables(attention, seed=0)
        for scene in scenes:
            reason = None if args.triangles or args.scene else _too_large(attention, scene, name)
            if reason:
                print(f"left out: {len(scene.triangles):,} triangles, {name}: {reason}")
            else:
                rows += benchmark(variables, attention, scene, args)
    return rows


def benchmark(
    variables: dict, config: RenderFormerConfig, scene: AnyScene, args: argparse.Namespace
) -> list[Row]:
    """Times one view of one scene and prints its rows; compilation is timed apart."""
    count = len(scene.triangles)

    def render(renderer):
        encoding = renderer.encode_scene(scene)
        cameras = scene.camera_to_world[:1], scene.fov_degrees[:1]
        list(renderer.render_views(encoding, *cameras, args.resolution))

    compile_times = []
    for _ in range(2):  # the second program comes from the persistent cache
        jax.clear_caches()
        renderer = Renderer(variables, config, args.precision)
        render(renderer)
        compile_times.append(renderer.seconds["compile"])
    samples = {stage: [] for stage in (*STAGES, "total")}
    rates = []
    dtype, tokens = PRECISIONS[args.precision], token_counts(config, count).tokens
    # Stages and products alternate, so that a busy machine slows them alike.
    for _ in tqdm(range(args.repeats), desc=f"{count:,} triangles", disable=None, leave=False):
        rates.append(measure_product_rate(config, tokens, dtype))
        before = renderer.seconds.copy()
        render(renderer)
        spent = [renderer.seconds[stage] - before[stage] for stage in STAGES]
        for stage, seconds in zip(samples, (*spent, sum(spent)), strict=True):
            samples[stage].append(seconds)
    flops = [
        view_independent_flops(config, count) + context_flops(config, count),
        view_flops(config, count, args.resolution),
    ]
    memory = [renderer.program_bytes[stage] for stage in STAGES]
    name, product_rate = config.view_independent_attention, statistics.median(rates)
    rows = [
        _row(count, name, stage, seconds, stage_flops, product_rate, stage_memory)
        for (stage, seconds), stage_flops, stage_memory in zip(
            samples.items(), (*flops, sum(flops)), (*memory, max(memory)), strict=True
        )
    ]
    _print_rows(rows, product_rate, *compile_times)
    return rows


def with_layers(config: RenderFormerConfig, layers: int) -> RenderFormerConfig:
    """The configuration with that many layers per stage; the decoder reads the last four."""
    taps = tuple(max(layers - 4 + i, 0) for i in range(4)) if config.use_dpt_decoder else None
    return dataclasses.replace(
        config, num_layers=layers, view_transformer_n_layers=layers, dpt_out_layers=taps
    )


def save_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in dataclasses.fields(Row))
        writer.writerows(dataclasses.astuple(row) for row in rows)


def save_plot(path: Path, rows: Sequence[Row]) -> None:
    """Plots the seconds of each stage against triangles, one line per attention function."""
    figure = new_figure(11, 4.2)
    for axis, stage in zip(figure.subplots(1, 2, sharex=True), STAGES, strict=True):
        for name in dict.fromkeys(row.attention for row in rows):
            line = [r for r in rows if (r.attention, r.stage) == (name, stage)]
            axis.loglog([r.triangles for r in line], [r.seconds for r in line], "o-", label=name)
        axis.set(title=f"{stage} stage", xlabel="triangles", ylabel="seconds")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _view_attention(name: str) -> str:
    """The second stage's attention: approximate functions replace only the first stage's."""
    return name if get_attention(name).exact else "auto"


def _too_large(config: RenderFormerConfig, scene: AnyScene, name: str) -> str | None:
    """The reason to leave this case out on a CPU; None to time it."""
    if jax.default_backend() != "cpu":
        return None
    if name == "flash":
        return "flash is interpreted on a CPU, so its times would mean nothing"
    teraflop = view_independent_flops(config, len(scene.triangles)) / 1e12
    if teraflop <= CPU_TERAFLOP:
        return None
    return f"{teraflop:.0f} TFLOP are too much for a CPU; name the count in --triangles"


def _row(count, name, stage, seconds, flops, product_rate, memory) -> Row:
    median = statistics.median(seconds)
    spread = (max(seconds) - min(seconds)) / median
    rate = flops / median
    return Row(count, name, stage, median, spread, rate / 1e12, rate / product_rate, memory / 2**30)


def _print_rows(rows: list[Row], product_rate: float, cold: float, cached: float) -> None:
    print(
        f"\nmatrix products {product_rate / 1e12:.3f} TFLOP/s; compiling both stages "
        f"{cold:.1f} s cold, {cached:.1f} s from the cache"
    )
    print(
        f"{'triangles':>9}  {'attention':<14}{'stage':<18}{'seconds':>9}{'spread':>8}"
        f"{'TFLOP/s':>9}{'of products':>13}{'memory GiB':>12}"
    )
    for row in rows:
        print(
            f"{row.triangles:>9,}  {row.attention:<14}{row.stage:<18}{row.seconds:>9.3f}"
            f"{row.spread:>8.1%}{row.tflops_per_second:>9.3f}"
            f"{row.fraction_of_product_rate:>13.1%}{row.memory_gib:>12.2f}",
            flush=True,
        )


def _device_line(args: argparse.Namespace) -> str:
    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return (
        f"{device.device_kind}{cores}; jax {jax.__version__}; {args.variant}, {args.precision}, "
        f"one view of {args.resolution}x{args.resolution}; medians of {args.repeats}"
    )


if __name__ == "__main__":
    run_command_line(main)
