"""Gradients of the network against those of a path tracer, on one task of inverse rendering.

    %(prog)s
    %(prog)s --steps 100 --spp 64

The colours of three walls of the bundled Cornell box, from one image and a start of grey. The
bundled network fits its own image of the box and the path-traced one; Mitsuba 3 (`prb`, its own
gradient) fits the path-traced one. All take the same loss and the same optimizer. The table says
how many steps and seconds it took until the largest error of the nine reflectances stayed below
each bound; loading and compiling are listed apart.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.images.files import load_exr
from rf_jax.radiance import log_radiance
from rf_jax.rendering.fitting import fit
from rf_jax.rendering.free_parameters import Free, start_values
from rf_jax.rendering.function import render_function
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import bundled_scene, load_scene, load_scene_description
from rf_jax.scene.parameters import scene_parameters
from rf_jax.structs import DIFFUSE, EMISSION

SCENE = "cornell_box"
WALLS = ("left_wall", "right_wall", "back_wall")
BOUNDS = (0.1, 0.05, 0.02)
"""Largest errors of a reflectance."""


class Step(NamedTuple):
    """The seconds since the start, and the largest error of a reflectance."""

    seconds: float
    error: float


class Recorder:
    """Notes the error of each step and the time until then."""

    def __init__(self, truth: np.ndarray, name: str, steps: int):
        self._truth, self._start = truth, time.perf_counter()
        self.steps: list[Step] = []
        self._progress = tqdm(total=steps, desc=name, unit="step", disable=None, leave=False)

    def __call__(self, colours: np.ndarray) -> None:
        error = float(np.abs(np.asarray(colours) - self._truth).max())
        self.steps.append(Step(time.perf_counter() - self._start, error))
        self._progress.update()


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--steps", type=int, default=300, help="steps of gradient descent")
    add("--learning_rate", type=float, default=0.02, help="of the first step, falling to 0")
    add("--grey", type=float, default=0.3, help="what all walls begin with")
    add("--spp", type=int, default=32, help="samples per pixel of each of Mitsuba's steps")
    args = parser.parse_args()
    if args.steps < 1 or args.spp < 1:
        parser.error("--steps and --spp: expected positive numbers")
    return args


def main() -> None:
    args = parse_args()
    truth = load_scene_description(bundled_scene(SCENE))
    colours = np.array([truth.objects[wall].material.diffuse for wall in WALLS])
    traced = load_exr(bundled_scene(SCENE).parent / "scene_truth_view_0.exr")[..., :3]
    own = Renderer.from_pretrained().render(load_scene(SCENE))[0, 0]
    print(f"{'':<34}{'before':>8}{'a step':>9}" + "".join(f"{b:>16}" for b in BOUNDS) + "   end")
    for name, target, run in (
        ("network, its own image", own, fit_network),
        ("network, path-traced image", traced, fit_network),
        ("Mitsuba, path-traced image", traced, fit_mitsuba),
    ):
        recorder = Recorder(colours, name, args.steps + 1)
        run(target, args, recorder)
        print(_row(name, recorder.steps), flush=True)


def fit_network(target: np.ndarray, args: argparse.Namespace, record: Callable) -> None:
    """Fits the walls with `rf_jax.rendering.fitting.fit`."""
    description = load_scene_description(bundled_scene(SCENE))
    free = [Free(wall, "diffuse") for wall in WALLS]
    parameters = scene_parameters(load_scene(SCENE))
    start = start_values(free, description, parameters)
    start = {name: np.full_like(value, args.grey) for name, value in start.items()}
    fit(
        render_function(),
        parameters,
        free,
        start,
        target[None],
        steps=args.steps,
        learning_rate=args.learning_rate,
        on_step=lambda _, values: record(np.stack([values[f"{wall}.diffuse"] for wall in WALLS])),
    )


def fit_mitsuba(target: np.ndarray, args: argparse.Namespace, record: Callable) -> None:
    """Fits the walls with the derivative of the path integral."""
    from rf_jax.datagen.config import RenderConfig
    from rf_jax.datagen.path_tracer import check_renderer

    config = RenderConfig(resolution=len(target), spp=args.spp, variant="llvm_ad_rgb")
    variant = check_renderer(config, None)
    import drjit as dr
    import mitsuba as mi

    from rf_jax.datagen.mitsuba_renderer import MitsubaRenderer

    renderer = MitsubaRenderer(config, variant, threads=os.cpu_count())
    scene = load_scene(SCENE)
    loaded = renderer.load(scene)
    params = mi.traverse(loaded)
    key = "surfaces.face_diffuse"
    params.keep([key])
    surfaces = ~scene.texture[:, EMISSION].any(axis=1)
    wall = np.full(len(scene.triangles), -1)
    for i, name in enumerate(WALLS):
        wall[scene.objects == scene.object_names.index(name)] = i
    wall = wall[surfaces]
    others = mi.Float(scene.texture[surfaces, DIFFUSE].ravel())
    is_wall = mi.Bool(np.repeat(wall >= 0, 3))
    channel = mi.UInt32((3 * np.maximum(wall, 0)[:, None] + np.arange(3)).ravel())
    optimizer = mi.ad.Adam(lr=args.learning_rate)
    optimizer["walls"] = mi.Float(np.full(3 * len(WALLS), args.grey))
    integrator = mi.load_dict({"type": "prb", "max_depth": config.max_depth, "hide_emitters": True})
    goal = mi.TensorXf(log_radiance(target))
    for i in range(args.steps + 1):
        colours = np.array(optimizer["walls"]).reshape(-1, 3)
        rate = args.learning_rate * (1 + np.cos(np.pi * min(i / args.steps, 1))) / 2
        optimizer.set_learning_rate(rate)
        params[key] = dr.select(is_wall, dr.gather(mi.Float, optimizer["walls"], channel), others)
        params.update()
        image = mi.render(loaded, params, integrator=integrator, spp=args.spp, seed=i)
        image = dr.log(1 + image[:, :, :3]) / np.log(10)
        dr.backward(dr.mean(dr.square(image - goal)))
        optimizer.step()
        optimizer["walls"] = dr.clip(optimizer["walls"], 0, 1)
        record(colours)


def _row(name: str, steps: list[Step]) -> str:
    seconds = np.array([step.seconds for step in steps])
    per_step = np.median(np.diff(seconds))
    first = seconds[0] - per_step
    cells = []
    for bound in BOUNDS:
        above = [i for i, step in enumerate(steps) if step.error > bound]
        last = above[-1] + 1 if above else 0
        cells.append(
            f"{last:>5} / {seconds[last] - first:>5.1f} s" if last < len(steps) else "never"
        )
    return (
        f"{name:<34}{first:>6.1f} s{per_step * 1000:>6.0f} ms"
        + "".join(f"{cell:>16}" for cell in cells)
        + f"{steps[-1].error:>8.3f}"
    )


if __name__ == "__main__":
    run_command_line(main)
