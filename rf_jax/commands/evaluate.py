"""Compares a network's images with ground truth: PSNR, SSIM, LPIPS and HDR-FLIP.

    %(prog)s --checkpoint workdirs/tiny --data data/tiny

prints a table, and writes evaluation.json, sheet.png (prediction, ground truth and FLIP error for
the first scenes) and worst.png (the same for the scenes of lowest PSNR).
"""

import argparse
import json
from pathlib import Path

from rf_jax.command_line import make_parser
from rf_jax.commands.render import add_latent_encoders
from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.images.files import save_png
from rf_jax.images.lpips import Perceptual
from rf_jax.rendering.evaluation import evaluate, format_table, summaries
from rf_jax.rendering.files import check_output_folder
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene.dataset import find_files


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="a training directory, checkpoint or hub id")
    add("--data", type=Path, required=True, help="a folder of .h5 files with images (img)")
    add_latent_encoders(add)
    add("--split", help='only this split of the folder\'s index, such as "test" (default: all)')
    add("--max_scenes", type=int, help="evaluate only this number of scenes (default: all)")
    add("--lpips_weights", help="folder with the weights of LPIPS (default: the hub's)")
    add("--precision", choices=PRECISIONS, default="fp32", help="type of matrix products")
    add("--output_dir", type=Path, default=Path("output/evaluation"), help="folder for the files")
    args = parser.parse_args()
    if args.max_scenes is not None and args.max_scenes < 1:
        parser.error(f"--max_scenes: expected at least 1, found {args.max_scenes}")
    return args


def main() -> None:
    args = parse_args()
    files = [path for path, _ in find_files(args.data, args.split)][: args.max_scenes]
    if not files:
        raise InputError(f"{args.data}: no files of split {args.split!r}; see its index.jsonl")
    check_output_folder(args.output_dir)
    perceptual, notes = _load_lpips(args.lpips_weights)
    renderer = Renderer.from_pretrained(
        args.checkpoint, args.precision, latent_encoders=args.latent_encoders
    )
    found = evaluate(renderer, files, perceptual)
    result = {"checkpoint": args.checkpoint, "scenes": found.rows, **summaries(found.rows)}
    # Files come first: what is printed may go to a program that has ended.
    with atomic_path(args.output_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n")
    save_png(args.output_dir / "sheet.png", found.sheet)
    save_png(args.output_dir / "worst.png", found.worst)
    written = f"-> {args.output_dir}/evaluation.json, sheet.png, worst.png"
    print(*notes, format_table(found.rows), written, sep="\n")


def _load_lpips(folder: str | None) -> tuple[Perceptual | None, list[str]]:
    """LPIPS; None and a note why, if the hub's weights can be neither found nor downloaded."""
    try:
        return Perceptual(folder), []
    except InputError as error:
        if folder is not None:
            raise
        return None, [f"LPIPS unavailable: {error}"]
