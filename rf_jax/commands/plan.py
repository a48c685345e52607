"""Plans training or rendering on GPUs that are not at hand: memory, collectives, a bound on time.

    %(prog)s --config base_256 --devices 8
    %(prog)s --config base_256 --devices 4 --gpu a100-40 --config.batch_size=64
    %(prog)s --config base_512 --render cornell_box --resolution 512 --precision fp16
    %(prog)s --variant v2_200m --triangles 16384 --resolution 2048 --precision fp16

The program is compiled for the GPU, which takes a minute, and nothing runs. If a training step does
not fit, ways to save memory are compiled too. --render and --triangles plan the stages of a
configuration's network, or of a variant, with random weights. Times are bounds on paper, not
measurements.
"""

import argparse
import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm

from rf_jax.command_line import add_config_option, make_parser, parse_with_overrides
from rf_jax.config_files import load_config_file
from rf_jax.errors import InputError
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.planning.gpus import GPUS
from rf_jax.planning.programs import Plan, compile_without_gpu, plan_rendering, plan_training
from rf_jax.planning.report import plan_lines, trial_lines
from rf_jax.planning.trials import Changes, find_fitting, fits
from rf_jax.rendering.renderer import PRECISIONS
from rf_jax.scene import load_scene
from rf_jax.scene.random_scene import random_scene
from rf_jax.training.config import TrainingConfig

MAX_DEVICES = 1024
"""Largest number of GPUs to compile for."""

MAX_TRIANGLES = 2**22
"""Largest number of triangles that `--triangles` makes."""


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config_option(add, "tiny, base_256", required=False)
    add("--variant", choices=VARIANTS, help="plan rendering with this network")
    add("--devices", type=int, default=1, help="number of GPUs")
    add("--gpu", choices=GPUS, default="h100", help="the kind of GPU")
    add("--render", metavar="SCENE", help="plan rendering this scene instead of training")
    add("--triangles", type=int, help="plan rendering this number of random triangles")
    add("--resolution", type=int, default=512, help="image side in pixels of what is rendered")
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="type of matrix products in rendering",
    )
    args, overrides = parse_with_overrides(parser)
    if not 1 <= args.devices <= MAX_DEVICES:
        parser.error(f"--devices: expected 1 to {MAX_DEVICES}, found {args.devices}")
    _check_combination(parser, args, overrides)
    return args, overrides


def _check_combination(
    parser: argparse.ArgumentParser, args: argparse.Namespace, overrides: list[str]
) -> None:
    if (args.config is None) == (args.variant is None):
        parser.error("expected either --config, for a run and its network, or --variant")
    if overrides and args.config is None:
        parser.error(f"{overrides[0]}: changes a configuration, and there is no --config")
    if args.render is not None and args.triangles is not None:
        parser.error("expected either --render SCENE or --triangles, found both")
    if args.variant is not None and args.render is None and args.triangles is None:
        parser.error("--variant: is for rendering; add --triangles or --render SCENE")
    if args.triangles is not None and not 1 <= args.triangles <= MAX_TRIANGLES:
        parser.error(f"--triangles: expected 1 to {MAX_TRIANGLES:,}, found {args.triangles}")


def main() -> None:
    args, overrides = parse_args()
    config = args.config and load_config_file(TrainingConfig, args.config, overrides)
    compile_without_gpu()
    if args.render is None and args.triangles is None:
        _plan_training(config, args)
    else:
        _plan_rendering(config.model if config else VARIANTS[args.variant], args)


def _plan_training(config: TrainingConfig, args: argparse.Namespace) -> None:
    gpu = GPUS[args.gpu]

    def plan(changes: Changes) -> Plan:
        changed = dataclasses.replace(config, **changes)
        options = "".join(f", {key}={value}" for key, value in changes.items())
        with _progress(f"compiling the training step{options}"):
            return plan_training(changed, gpu, args.devices)

    first = plan({})
    print("\n".join(plan_lines(first, gpu)), flush=True)
    if not fits(first, gpu):
        print("\n".join(trial_lines(find_fitting(config, first, gpu, plan), gpu)))


def _plan_rendering(config: RenderFormerConfig, args: argparse.Namespace) -> None:
    gpu, multiple = GPUS[args.gpu], config.resolution_multiple
    if args.resolution < 1 or args.resolution % multiple:
        raise InputError(
            f"--resolution: expected a positive multiple of {multiple}, found {args.resolution}"
        )
    if args.render is None:
        scene = random_scene(args.triangles, config)
    elif config.v2 is None:
        scene = load_scene(args.render)
    else:
        raise InputError("--render: scenes of RenderFormer V2 are not read here; give --triangles")
    with _progress("compiling both stages"):
        plans = plan_rendering(
            config, scene, args.resolution, PRECISIONS[args.precision], gpu, args.devices
        )
    for plan in plans:
        print("\n".join(plan_lines(plan, gpu)))


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Says on stderr what takes so long: seconds that pass on a terminal, else one line."""
    if not sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)
    stop, start = threading.Event(), time.perf_counter()
    with tqdm(desc=what, bar_format="{desc} ... {elapsed}", disable=None, leave=False) as bar:

        def tick():
            while not stop.wait(1):
                bar.refresh()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
    print(f"{what} took {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
