"""Compares a network's images with ground truth: PSNR, SSIM, LPIPS and HDR-FLIP.

    python -m rf_jax.evaluate --checkpoint workdirs/tiny --data data/tiny

prints a table, and writes evaluation.json, sheet.png (prediction, truth, 4x difference of the first
scenes) and worst.png (of those of lowest PSNR).
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

from rf_jax.errors import InputError, prefix_errors, run_command_line
from rf_jax.files import atomic_path
from rf_jax.images.comparison import comparison_image
from rf_jax.images.files import save_png
from rf_jax.images.lpips import Perceptual
from rf_jax.images.metrics import psnr, ssim
from rf_jax.images.radiance import display, log_radiance
from rf_jax.images.tone_map import tone_map
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene.dataset import find_files
from rf_jax.scene.h5 import load_h5, load_images

METRICS = ("psnr", "ssim", "lpips", "hdr_flip")
SHEET_ROWS = 8
WORST = 10


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
    result = {"checkpoint": args.checkpoint, "scenes": rows, **summaries(rows)}
    with atomic_path(args.output_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n")
    save_png(args.output_dir / "sheet.png", sheet)
    by_psnr = sorted(zip(rows, files, strict=True), key=lambda pair: pair[0]["psnr"])
    _, worst = evaluate(renderer, [path for _, path in by_psnr[:SHEET_ROWS]], None)
    save_png(args.output_dir / "worst.png", worst)
    print(f"-> {args.output_dir}/evaluation.json, sheet.png, worst.png")


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
      a row a scene, and a sheet uint8 of the first views: prediction, truth, 4x difference.

    Raises:
      InputError: names the file that is damaged or without images.
    """
    rows, sheet = [], []
    for path in tqdm(files, unit="scene", disable=None, leave=False):
        scene, target = load_h5(path), np.float32(load_images(path)[..., :3])
        with prefix_errors(str(path)):
            image = renderer.render(scene, target.shape[1])[0]
        row = compare(image, np.maximum(target, 0), perceptual)
        rows.append({"scene": path.stem, "views": len(image)} | row)
        if len(sheet) < SHEET_ROWS:
            shown = [tone_map(np.maximum(x[0], 0), "agx") for x in (image, target)]
            sheet.append(comparison_image(*shown))
    width = min(row.shape[1] for row in sheet)
    return rows, np.concatenate([row for row in sheet if row.shape[1] == width], axis=0)


def compare(
    image: np.ndarray, target: np.ndarray, perceptual: Perceptual | None
) -> dict[str, float]:
    """Metrics of views [V, H, H, 3] of linear radiance, means over the views.

    PSNR compares radiance clipped to [0, 1]; SSIM and LPIPS compare clamp(log2(1 + radiance)).
    """
    logs = [log_radiance(jnp.maximum(jnp.asarray(x), 0)) for x in (image, target)]
    row = {"psnr": float(psnr(*logs).mean()), "ssim": float(ssim(*logs).mean())}
    if perceptual is not None:
        distance = jax.jit(perceptual.distance)
        row["lpips"] = float(distance(perceptual.params, *map(display, logs)).mean())
    row["hdr_flip"] = statistics.mean(_flip(a, b) for a, b in zip(image, target, strict=True))
    return row


def _flip(image: np.ndarray, target: np.ndarray) -> float:
    image, target = (np.ascontiguousarray(np.maximum(x, 0)) for x in (image, target))
    error, _, _ = flip_evaluator.evaluate(target, image, "HDR", applyMagma=False)
    return float(error.mean())


def summaries(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and median over scenes of each metric, and the mean of the scenes of lowest PSNR."""
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
    """The table as text; a metric that was left out says so."""
    names = {"mean": "mean", "median": "median", "worst": f"mean of {WORST} worst PSNR"}
    lines = [f"{'scene':<24}{'PSNR':>8}{'SSIM':>9}{'LPIPS':>9}{'HDR-FLIP':>10}"]
    last = [{"scene": names[name]} | row for name, row in summaries(rows).items()]
    for row in [*rows, *last]:
        lpips = f"{row['lpips']:.4f}" if "lpips" in row else "n/a"
        lines.append(
            f"{row['scene'][:23]:<24}{row['psnr']:>8.2f}{row['ssim']:>9.4f}{lpips:>9}"
            f"{row['hdr_flip']:>10.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command_line(main)
