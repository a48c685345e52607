"""How good networks are on scenes of few and of many triangles.

    %(prog)s workdirs/mixed_exact workdirs/mixed_performer --data data/rooms_mixed_test

prints for each network the PSNR and SSIM of scenes by their number of triangles, and the same for
scenes whose triangles are cut into four. These are the same surfaces under the same light, so they
have the same truth; only the network reads four times as many tokens. The table also has the time
of the view-independent stage, `triangle_counts.csv` has a line for each scene, and
`triangle_counts.png` shows the scenes of most triangles.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.errors import InputError
from rf_jax.files import save_csv
from rf_jax.images.comparison import with_titles
from rf_jax.images.files import save_png
from rf_jax.images.tone_map import to_uint8, tone_map
from rf_jax.rendering.evaluation import compare
from rf_jax.rendering.generations import require_v1
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.dataset import find_files
from rf_jax.scene.h5 import load_h5, load_images
from rf_jax.structs import Scene

BOUNDS = (250, 500, 1000)
"""Numbers of triangles that separate the columns of the table."""

SHEET_ROWS, SHEET_SCALE = 4, 3
"""Scenes on the sheet, and how much it is enlarged."""

CORNERS = np.array(
    [
        [[1, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]],
        [[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5]],
        [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]],
        [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]],
    ],
    np.float32,
)
"""The corners of the four parts of a triangle, in barycentric coordinates of the whole."""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", help="checkpoints of the networks to compare")
    add("--data", type=Path, required=True, help="a folder of .h5 files with images")
    add("--max_scenes", type=int, help="compare only this number of scenes (default: all)")
    add("--views", type=int, default=2, help="compare only this number of views of each scene")
    add("--output_dir", type=Path, default=Path("output"), help="folder for both files")
    args = parser.parse_args()
    if args.views < 1 or (args.max_scenes is not None and args.max_scenes < 1):
        parser.error("--max_scenes and --views: expected positive numbers")
    return args


def main() -> None:
    args = parse_args()
    files = [path for path, _ in find_files(args.data, None)][: args.max_scenes]
    if not files:
        raise InputError(f"{args.data}: expected .h5 files with images, found none")
    rows, columns = [], {}
    for checkpoint in args.checkpoints:
        name, renderer = Path(checkpoint).name, Renderer.from_pretrained(checkpoint)
        require_v1(renderer.config, checkpoint)
        found = list(compare_scenes(renderer, files, args.views))
        rows += [{"network": name} | row for row in found]
        print(format_table(name, found))
        largest = _largest(args.data, found)
        columns[name] = [renderer.render(load_h5(path))[0, 0] for path in largest]
    columns["path traced"] = [np.float32(load_images(path)[0, ..., :3]) for path in largest]
    save_png(args.output_dir / "triangle_counts.png", sheet(columns))
    table = args.output_dir / "triangle_counts.csv"
    save_csv(table, rows)
    print(f"-> {table}, triangle_counts.png")


def _largest(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """The files of the scenes of most triangles."""
    names = {row["scene"]: row["triangles"] for row in rows}
    return [folder / f"{name}.h5" for name in sorted(names, key=names.get)[-SHEET_ROWS:]]


def sheet(columns: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Linear images [H, W, 3] in titled columns, enlarged: uint8 [h, w, 3]."""
    pictures = [[tone_map(np.maximum(x, 0), "agx") for x in column] for column in columns.values()]
    grid = np.concatenate([np.concatenate(column) for column in pictures], axis=1)
    enlarged = to_uint8(grid).repeat(SHEET_SCALE, axis=0).repeat(SHEET_SCALE, axis=1)
    return with_titles(enlarged, tuple(columns))


def compare_scenes(renderer: Renderer, files: list[Path], views: int) -> Iterator[dict[str, Any]]:
    """Compares scenes, as they are and cut finer, with their ground truth.

    Args:
      renderer: holds the network.
      files: HDF5 scenes with images.
      views: how many of the views of each scene are compared.

    Yields:
      the scene's name and triangles, how many parts each of these was cut into, PSNR and SSIM, and
      the seconds of the view-independent stage.
    """
    for path in tqdm(files, unit="scene", disable=None, leave=False):
        scene, target = load_views(path, views)
        for parts, cut in ((1, scene), (4, subdivided(scene))):
            before = renderer.seconds["view-independent"]
            image = np.maximum(renderer.render(cut, target.shape[1])[0], 0)
            metrics = compare(image, target, None)
            yield {
                "scene": path.stem,
                "triangles": len(scene.triangles),
                "parts": parts,
                "psnr": metrics["psnr"],
                "ssim": metrics["ssim"],
                "seconds": renderer.seconds["view-independent"] - before,
            }


def load_views(path: Path, views: int) -> tuple[Scene, np.ndarray]:
    """A scene with its first views, and their images [V, H, H, 3]."""
    scene = load_h5(path)
    scene = scene.replace(
        camera_to_world=scene.camera_to_world[:views], fov_degrees=scene.fov_degrees[:views]
    )
    target = np.maximum(np.float32(load_images(path)[:views, ..., :3]), 0)
    return scene, target


def subdivided(scene: Scene) -> Scene:
    """An unbatched scene with each triangle cut into four at the midpoints of its edges."""

    def cut(corners):
        return np.einsum("pcv,nvx->npcx", CORNERS, corners).reshape(-1, 3, 3)

    normals = cut(scene.vertex_normals)
    return scene.replace(
        triangles=cut(scene.triangles),
        vertex_normals=normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        texture=np.repeat(scene.texture, 4, axis=0),
        objects=None if scene.objects is None else np.repeat(scene.objects, 4, axis=0),
    )


def format_table(name: str, rows: list[dict[str, Any]]) -> str:
    """Means of the scenes whose triangles are between two of the bounds, and of all."""
    edges = [0, *BOUNDS, np.inf]
    columns = [*itertools.pairwise(edges), (0, np.inf)]
    titles = [f"< {BOUNDS[0]}", *(f"to {high}" for high in BOUNDS[1:]), f"> {BOUNDS[-1]}", "all"]
    lines = [f"{name:<28}" + "".join(f"{title:>10}" for title in titles)]
    for parts, metric in ((1, "psnr"), (1, "ssim"), (1, "seconds"), (4, "psnr"), (4, "ssim")):
        values = []
        for low, high in columns:
            chosen = [
                row[metric]
                for row in rows
                if row["parts"] == parts and low < row["triangles"] <= high
            ]
            values.append(f"{statistics.mean(chosen):>10.3f}" if chosen else f"{'-':>10}")
        lines.append(f"{metric + (' cut in four' if parts == 4 else ''):<28}" + "".join(values))
    return "\n".join(lines)


if __name__ == "__main__":
    run_command_line(main)
