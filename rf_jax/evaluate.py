"""Compares a network's images with ground truth: PSNR, SSIM, LPIPS and HDR-FLIP.

    python -m rf_jax.evaluate --checkpoint workdirs/tiny --data data/tiny

prints a table, and writes evaluation.json and sheet.png (prediction, truth, FLIP error).
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import flip_evaluator
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rf_jax.atomic import atomic_path
from rf_jax.data import find_files
from rf_jax.errors import InputError, prefix_errors, run_command_line
from rf_jax.image_io import save_png
from rf_jax.losses import display, log_radiance
from rf_jax.metrics import psnr, ssim
from rf_jax.perceptual import Perceptual
from rf_jax.rendering import PRECISIONS, Renderer
from rf_jax.scene.h5 import load_h5, load_images
from rf_jax.tone_map import to_uint8, tone_map

METRICS = ("psnr", "ssim", "lpips", "hdr_flip")
SHEET_ROWS = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a training directory, checkpoint or hub id")
    add("--data", type=Path, required=True, help="a folder of .h5 files with images")
    add("--split", help='of the folder\'s index, such as "test" (default: all files)')
    add("--max_scenes", type=int, help="evaluate only the first so many")
    add("--lpips_weights", help="folder of the weights of LPIPS (default: the hub's)")
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--output_dir", type=Path, default=Path("output/evaluation"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    files = [path for path, _ in find_files(args.data, args.split)][: args.max_scenes]
    if not files:
        raise InputError(f"{args.data}: no files of split {args.split!r}; see its index.jsonl")
    perceptual = _load_lpips(args.lpips_weights)
    renderer = Renderer.from_pretrained(args.checkpoint, args.precision)
    rows, sheet = evaluate(renderer, files, perceptual)
    print(format_table(rows))
    result = {"checkpoint": args.checkpoint, "scenes": rows, "mean": mean_row(rows)}
    with atomic_path(args.output_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n")
    save_png(args.output_dir / "sheet.png", sheet)
    print(f"-> {args.output_dir}/evaluation.json, sheet.png")


def _load_lpips(folder: str | None) -> Perceptual | None:
    """None, and a line that says so, where the hub's weights cannot be had."""
    try:
        return Perceptual(folder)
    except InputError as error:
        if folder is not None:
            raise
        print(f"LPIPS unavailable: {error}")
        return None


def evaluate(
    renderer: Renderer, files: list[Path], perceptual: Perceptual | None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Metrics of each scene, means over its views.

    Args:
      renderer: with the network.
      files: with `img`, of any resolution the network renders.
      perceptual: LPIPS; None leaves it out.

    Returns:
      a row a scene, and a sheet uint8 of the first views: prediction, truth, FLIP error.

    Raises:
      InputError: names the file that is damaged or without images.
    """
    rows, sheet = [], []
    for path in tqdm(files, unit="scene", disable=None, leave=False):
        scene, target = load_h5(path), np.float32(load_images(path)[..., :3])
        with prefix_errors(str(path)):
            image = renderer.render(scene, target.shape[1])[0]
        row, errors = compare(image, np.maximum(target, 0), perceptual)
        rows.append({"scene": path.stem, "views": len(image)} | row)
        if len(sheet) < SHEET_ROWS:
            sheet.append(_sheet_row(image[0], target[0], errors[0]))
    side = min(len(row) for row in sheet)
    return rows, np.concatenate([row for row in sheet if len(row) == side], axis=0)


def compare(
    image: np.ndarray, target: np.ndarray, perceptual: Perceptual | None
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Metrics of views [V, H, H, 3] of linear radiance, and their FLIP error maps [H, H].

    PSNR compares radiance clipped to [0, 1]; SSIM and LPIPS compare clamp(log2(1 + radiance)).
    """
    logs = [log_radiance(jnp.maximum(jnp.asarray(x), 0)) for x in (image, target)]
    row = {"psnr": float(psnr(*logs).mean()), "ssim": float(ssim(*logs).mean())}
    if perceptual is not None:
        distance = jax.jit(perceptual.distance)
        row["lpips"] = float(distance(perceptual.params, *map(display, logs)).mean())
    flips = [_flip(a, b) for a, b in zip(image, target, strict=True)]
    row["hdr_flip"] = statistics.mean(float(error.mean()) for error in flips)
    return row, flips


def _flip(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(np.maximum(image, 0))
    error, _, _ = flip_evaluator.evaluate(
        np.ascontiguousarray(target), image, "HDR", applyMagma=False
    )
    return error.reshape(error.shape[:2])


def _sheet_row(image: np.ndarray, target: np.ndarray, error: np.ndarray) -> np.ndarray:
    shown = [tone_map(np.maximum(x, 0), "agx") for x in (image, target)]
    return to_uint8(np.concatenate([*shown, np.repeat(error[..., None], 3, -1)], axis=1))


def mean_row(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over scenes."""
    return {m: statistics.mean(row[m] for row in rows) for m in METRICS if m in rows[0]}


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table as text; a metric that was left out says so."""
    lines = [f"{'scene':<24}{'PSNR':>8}{'SSIM':>9}{'LPIPS':>9}{'HDR-FLIP':>10}"]
    for row in [*rows, {"scene": "mean"} | mean_row(rows)]:
        lpips = f"{row['lpips']:.4f}" if "lpips" in row else "n/a"
        lines.append(
            f"{row['scene'][:23]:<24}{row['psnr']:>8.2f}{row['ssim']:>9.4f}{lpips:>9}"
            f"{row['hdr_flip']:>10.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command_line(main)
