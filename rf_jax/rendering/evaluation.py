"""Images of a network compared with ground truth: PSNR, SSIM, LPIPS and HDR-FLIP."""

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import flip_evaluator
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rf_jax.errors import one_line, prefix_errors
from rf_jax.images.comparison import comparison_image, with_titles
from rf_jax.images.lpips import Perceptual
from rf_jax.images.metrics import psnr, ssim
from rf_jax.images.tone_map import tone_map
from rf_jax.radiance import display, log_radiance
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.h5 import load_images

METRICS = ("psnr", "ssim", "lpips", "hdr_flip")

SHEET_ROWS = 8
"""Largest number of scenes on a sheet of comparisons."""

LUMINANCE = np.float32([0.2126, 0.7152, 0.0722])
"""Share of linear R, G and B in the luminance."""

BLACK = 1e-6
"""Views of a lower luminance have no exposures for HDR-FLIP, which divides by the luminance."""

WORST = 10
"""Number of scenes of lowest PSNR that the table's last line is the mean of."""


class Evaluation(NamedTuple):
    """What `evaluate` found.

    Attributes:
      rows: one per scene: its name, number of views and metrics.
      sheet: uint8 [h, w, 3], prediction, ground truth and FLIP error, under titles, for the first
        view of each of the first scenes.
      worst: the same for the scenes of lowest PSNR, the lowest first.
    """

    rows: list[dict[str, Any]]
    sheet: np.ndarray
    worst: np.ndarray


def evaluate(renderer: Renderer, files: list[Path], perceptual: Perceptual | None) -> Evaluation:
    """Renders scenes and compares them with their ground truth.

    Args:
      renderer: holds the network.
      files: HDF5 scenes of the network's generation with images, of any resolution that it
        renders.
      perceptual: LPIPS; None leaves it out.

    Raises:
      InputError: names the file that is damaged or has no images.
    """
    rows, first, worst = [], [], []
    for path in tqdm(files, unit="scene", disable=None, leave=False):
        scene, target = renderer.load_scene(path), np.float32(load_images(path)[..., :3])
        with prefix_errors(str(path)):
            image = renderer.render(scene, target.shape[1])[0]
        image, target = np.maximum(image, 0), np.maximum(target, 0)
        row = compare(image, target, perceptual)
        rows.append({"scene": path.stem, "views": len(image)} | row)
        picture = comparison_image(tone_map(image[0], "agx"), tone_map(target[0], "agx"))
        if len(first) < SHEET_ROWS:
            first.append(picture)
        worst = sorted([*worst, (row["psnr"], picture)], key=lambda pair: pair[0])[:SHEET_ROWS]
    return Evaluation(rows, _sheet(first), _sheet([picture for _, picture in worst]))


def _sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Stacks the pictures of the smallest width; those of other resolutions are left out."""
    width = min(picture.shape[1] for picture in pictures)
    rows = [picture for picture in pictures if picture.shape[1] == width]
    return with_titles(np.concatenate(rows))


def compare(
    image: np.ndarray, target: np.ndarray, perceptual: Perceptual | None
) -> dict[str, float]:
    """Means over the views of each metric.

    PSNR compares radiance clipped to [0, 1], SSIM and LPIPS compare clamp(log2(1 + radiance)), and
    HDR-FLIP compares the radiance itself.

    Args:
      image, target: linear radiance [V, H, H, 3], at least 0.
      perceptual: LPIPS; None leaves it out.
    """
    rows = [_compare_view(*pair, perceptual) for pair in zip(image, target, strict=True)]
    return {name: statistics.mean(row[name] for row in rows) for name in rows[0]}


def _compare_view(
    image: np.ndarray, target: np.ndarray, perceptual: Perceptual | None
) -> dict[str, float]:
    """Each metric of a view [H, H, 3].

    Views are compared one by one, so that programs are compiled once per resolution, and not for
    each number of views.
    """
    shown = [display(log_radiance(jnp.asarray(x)))[None] for x in (image, target)]
    row = {"psnr": float(psnr(image, target)), "ssim": float(ssim(*shown)[0])}
    if perceptual is not None:
        row["lpips"] = float(perceptual.distance(perceptual.params, *shown)[0])
    return row | {"hdr_flip": _flip(image, target)}


def _flip(image: np.ndarray, target: np.ndarray) -> float:
    """HDR-FLIP of a view [H, H, 3].

    Its exposures follow from the luminance of the ground truth. Where there is none, the library
    would end the process, so a black view is compared as it is, at an exposure of 0.
    """
    image, target = np.ascontiguousarray(image), np.ascontiguousarray(target)
    black = (target @ LUMINANCE).max() < BLACK
    exposures = {"startExposure": 0.0, "stopExposure": 0.0} if black else {}
    error, _, _ = flip_evaluator.evaluate(
        target, image, "HDR", applyMagma=False, parameters=exposures
    )
    return float(error.mean())


def summaries(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per metric, the mean and the median over scenes, and the mean of the `WORST` scenes."""
    worst = sorted(rows, key=lambda row: row["psnr"])[:WORST]
    return {
        name: {m: function(row[m] for row in chosen) for m in METRICS if m in rows[0]}
        for name, function, chosen in (
            ("mean", statistics.mean, rows),
            ("median", statistics.median, rows),
            ("worst", statistics.mean, worst),
        )
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table as text; it says n/a for a metric that was left out."""
    names = {"mean": "mean", "median": "median", "worst": f"mean of {WORST} worst PSNR"}
    lines = [f"{'scene':<24}{'PSNR':>8}{'SSIM':>9}{'LPIPS':>9}{'HDR-FLIP':>10}"]
    last = [{"scene": names[name]} | row for name, row in summaries(rows).items()]
    for row in [*rows, *last]:
        lpips = f"{row['lpips']:.4f}" if "lpips" in row else "n/a"
        lines.append(
            f"{one_line(row['scene'], 23):<24}{row['psnr']:>8.2f}{row['ssim']:>9.4f}{lpips:>9}"
            f"{row['hdr_flip']:>10.4f}"
        )
    return "\n".join(lines)
