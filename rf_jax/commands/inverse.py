"""Fits named parameters of a scene to images by gradient descent through the network.

    %(prog)s scene.json target.exr --free "left_wall.diffuse,light.emission"
    %(prog)s cornell_box target.exr --free "left_wall.diffuse=0.3,light.position=0 -1 2.2"

A name is OBJECT.PARAMETER with an object of the scene, or cameras.PARAMETER:

{names}

The fit begins with the values of the scene, or with those after =. It writes NAME_fitted.json,
which `render.py` renders, the images of that scene, sheet.png (target, start, result and FLIP error
of each view), loss.csv and, with the extra plot, loss.png. docs/inverse.md has examples, and says
where this fails.
"""

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rf_jax.command_line import make_parser
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path, save_csv
from rf_jax.images.comparison import FIT_TITLES, fit_comparison, with_titles
from rf_jax.images.figures import new_figure
from rf_jax.images.files import load_exr, save_exr, save_png
from rf_jax.images.tone_map import tone_map
from rf_jax.rendering.files import check_output_folder
from rf_jax.rendering.fitting import Fit, fit
from rf_jax.rendering.free_parameters import (
    CAMERA_KINDS,
    CAMERAS,
    OBJECT_KINDS,
    Free,
    Values,
    describe_values,
    parse_free,
    start_values,
    with_description_cameras,
    with_starts,
)
from rf_jax.rendering.function import render_function
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import build_scene, load_scene, load_scene_description, scene_file
from rf_jax.scene.description import moved_to, save_scene_description
from rf_jax.scene.parameters import scene_parameters
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS


def parse_args() -> argparse.Namespace:
    names = {f"OBJECT.{name}": kind.text for name, kind in OBJECT_KINDS.items()}
    names |= {f"{CAMERAS}.{name}": kind.text for name, kind in CAMERA_KINDS.items()}
    lines = "\n".join(f"    {name:<18}{text}" for name, text in names.items())
    parser = make_parser(__doc__.replace("{names}", lines))
    add = parser.add_argument
    add("scene", metavar="SCENE", help="where the fit begins: a .json scene or a bundled scene")
    add("targets", nargs="+", metavar="TARGET.exr", help="the images to match, one per camera")
    add("--free", required=True, metavar="NAMES", help="what may change, separated by commas")
    add("--steps", type=int, default=300, help="steps of gradient descent")
    add("--learning_rate", type=float, default=0.02, help="size of the first steps, falling to 0")
    add("--max_move", type=float, default=1.0, help="how far places may move along each axis")
    add(
        "--checkpoint",
        default=str(BUNDLED_WEIGHTS),
        help="weights of RenderFormer V1, as for render.py (default: the bundled weights)",
    )
    add(
        "--remat",
        action="store_true",
        help="compute each layer again for the gradient instead of storing it: less memory, more "
        "time",
    )
    add("--output_dir", type=Path, default=Path("output/inverse"), help="folder for the files")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps: expected at least 1, found {args.steps}")
    for name in ("learning_rate", "max_move"):
        if not 0 < getattr(args, name) < np.inf:
            parser.error(f"--{name}: expected a positive number, found {getattr(args, name)}")
    return args


def main() -> None:
    args = parse_args()
    path = scene_file(args.scene)
    if path.suffix.lower() != ".json":
        raise InputError(
            f"{path}: expected a .json scene, because --free names its objects and the result has "
            "its form; HDF5 files hold no names, and glTF files are converted by "
            "python -m rf_jax.scene to_json"
        )
    description = load_scene_description(path)
    free = parse_free(args.free, description)
    description = with_starts(description, free)
    targets = load_targets(args.targets, len(description.cameras))
    check_output_folder(args.output_dir)
    with prefix_errors(str(path)):
        scene = build_scene(description, path.parent)
    renderer = Renderer.from_pretrained(args.checkpoint)
    side = targets.shape[1]
    with prefix_errors(args.targets[0]):
        renderer.check_resolution(side)
    render = render_function(renderer, side, args.remat)
    parameters = with_description_cameras(scene_parameters(scene), description)
    start = start_values(free, description, parameters)
    before = renderer.render(scene, side)[0]
    with tqdm(total=args.steps + 1, unit="step", disable=None, leave=False) as progress:

        def show(loss: float, _: Values) -> None:
            progress.set_postfix_str(f"loss {loss:.2e}", refresh=False)
            progress.update()

        how = {name: getattr(args, name) for name in ("steps", "learning_rate", "max_move")}
        found = fit(render, parameters, free, start, targets, **how, on_step=show)
    fitted = describe_values(description, free, found.values)
    name = path.stem if os.path.exists(args.scene) else args.scene
    json_path = args.output_dir / f"{name}_fitted.json"
    objects = moved_to(fitted.objects, path.parent, args.output_dir)
    save_scene_description(dataclasses.replace(fitted, objects=objects), json_path)
    after = renderer.render(load_scene(json_path), side)[0]
    for i, image in enumerate(after):
        save_exr(args.output_dir / f"{name}_fitted_view_{i}.exr", image)
    save_png(args.output_dir / "sheet.png", sheet(targets, before, after))
    losses = [{"step": i, "loss": loss} for i, loss in enumerate(found.losses.tolist())]
    save_csv(args.output_dir / "loss.csv", losses)
    note = save_curve(args.output_dir / "loss.png", found.losses)
    print(*summary(found, free, start), *note, f"-> {json_path}", sep="\n")


def load_targets(paths: list[str], views: int) -> np.ndarray:
    """Square images [V, H, H, 3] of one size, one per view; radiance below 0 becomes 0.

    Raises:
      InputError: another number of images, or an image of another shape.
    """
    if len(paths) != views:
        raise InputError(
            f"TARGET: expected one image per camera of the scene, which has {views}, found "
            f"{len(paths)}"
        )
    images = []
    for path in paths:
        image = load_exr(path)[..., :3]
        height, width = image.shape[:2]
        if height != width:
            raise InputError(f"{path}: expected a square image, found {width}x{height}")
        if images and image.shape != images[0].shape:
            raise InputError(
                f"{path}: expected {len(images[0])}x{len(images[0])} pixels, as in {paths[0]}, "
                f"found {width}x{height}"
            )
        if bad := int((~np.isfinite(image)).sum()):
            raise InputError(f"{path}: expected finite radiance, found {bad} values that are not")
        images.append(np.maximum(image, 0))
    return np.stack(images)


def sheet(targets: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A row per view under titles, uint8: target, start, result, error of the result."""
    rows = [
        fit_comparison(*(tone_map(np.maximum(image, 0), "agx") for image in view))
        for view in zip(targets, before, after, strict=True)
    ]
    return with_titles(np.concatenate(rows), FIT_TITLES)


def save_curve(path: Path, losses: np.ndarray) -> list[str]:
    """Draws the losses; a note if the extra that draws is not installed."""
    try:
        figure = new_figure(6, 3.5)
    except InputError as error:
        return [f"note: no loss.png: {error}"]
    axes = figure.subplots()
    axes.semilogy(losses)
    axes.set(xlabel="step", ylabel="mean squared error of log10(1 + radiance)")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return []


def summary(found: Fit, free: list[Free], start: Values) -> list[str]:
    """A line per free parameter, and one of the loss."""
    lines = [
        f"{one.name}: {_text(start[one.name])} -> {_text(found.values[one.name])}" for one in free
    ]
    return [*lines, f"loss: {found.losses[0]:.3e} -> {found.losses.min():.3e}"]


def _text(value: np.ndarray) -> str:
    return " ".join(f"{x:.4g}" for x in np.asarray(value).reshape(-1))
