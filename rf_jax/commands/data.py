"""Makes training data: random scenes with path-traced ground truth.

    %(prog)s --config data_tiny --output_dir data/tiny
    %(prog)s --config data_256 --output_dir data/rooms --config.seed=1
    %(prog)s --config data_tiny --dry_run     # only prints the distribution
    %(prog)s inspect data/tiny                # checks the files, makes a contact sheet
    %(prog)s path_trace scene.json            # makes the ground truth of any scene

A run that was stopped continues when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from rf_jax import schema
from rf_jax.command_line import add_config_option, make_parser, parse_with_overrides
from rf_jax.config_files import load_config_file
from rf_jax.datagen.config import DataConfig, RenderConfig
from rf_jax.datagen.dataset import make_dataset
from rf_jax.datagen.report import dry_run, inspect_dataset
from rf_jax.datagen.scene_files import RunOptions
from rf_jax.datagen.trace import trace_files
from rf_jax.errors import InputError
from rf_jax.processes import cpu_count
from rf_jax.scene import find_scene_files


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config_option(add, "data_tiny, data_256")
    add("--output_dir", type=Path, help="folder for the files (no default; --dry_run needs none)")
    add("--num_workers", type=int, help="processes (default: one per core; 2 on a GPU)")
    add(
        "--cycles_python",
        help="Python with bpy, for --config.render.renderer=cycles (default: none)",
    )
    add("--write_json", action="store_true", help="also write each scene as JSON and OBJ files")
    add(
        "--full_texture",
        action="store_true",
        help="store materials as published, [N, 13, 32, 32]: 1,024 times as many values",
    )
    add(
        "--dry_run",
        action="store_true",
        help="make the scenes and print their distribution, without images",
    )
    args, overrides = parse_with_overrides(parser)
    if args.output_dir is None and not args.dry_run:
        parser.error("--output_dir is missing")
    return args, overrides


def main() -> None:
    commands = {"inspect": _inspect, "path_trace": _path_trace}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in commands:
        commands[name](sys.argv[2:])
    else:
        _make_dataset()


def _make_dataset() -> None:
    args, overrides = parse_args()
    config = load_config_file(DataConfig, args.config, overrides)
    if args.num_workers is not None and args.num_workers < 1:
        raise InputError(f"--num_workers: expected at least 1, found {args.num_workers}")
    if args.dry_run:
        print(dry_run(config, args.num_workers or cpu_count()))
        return
    options = RunOptions(
        output_dir=args.output_dir,
        num_workers=args.num_workers,
        cycles_python=args.cycles_python,
        write_json=args.write_json,
        full_texture=args.full_texture,
    )
    entries = make_dataset(config, options)
    print(_summary(config, entries, args.output_dir))


def _inspect(arguments: list[str]) -> None:
    parser = make_parser("Checks every file of a dataset, and draws a contact sheet.", "inspect")
    parser.add_argument("folder", type=Path, help="folder of a dataset")
    print(inspect_dataset(parser.parse_args(arguments).folder))


def _path_trace(arguments: list[str]) -> None:
    parser = make_parser(
        "Path-traces the views of a scene file NAME to NAME_truth_view_0.exr and so on (linear\n"
        "RGB). rf-jax-render compares its images with those that lie beside the scene file.",
        "path_trace",
    )
    add = parser.add_argument
    add("scene", help="a .json, .h5 or .glb scene, a folder of frames, or a bundled scene")
    add("--resolution", type=int, default=64, help="image side in pixels")
    add("--spp", type=int, default=1024, help="samples per pixel")
    add("--max_depth", type=int, default=6, help="longest path; 2 is direct light only")
    add("--output_dir", type=Path, help="folder for the images (default: beside each scene file)")
    args = parser.parse_args(arguments)
    values = {name: getattr(args, name) for name in ("resolution", "spp", "max_depth")}
    config = schema.parse(RenderConfig, values)
    written = trace_files(find_scene_files(args.scene), config, args.output_dir)
    print(f"{len(written)} images -> {written[0].parent}/")


def _summary(config: DataConfig, entries: list[dict], folder: Path) -> str:
    views = sum(entry["views"] for entry in entries)
    splits = [entry["split"] for entry in entries]
    counts = ", ".join(f"{splits.count(name)} {name}" for name in ("train", "val", "test"))
    return (
        f"{len(entries)} scenes ({counts}), {views} images of {config.render.resolution}x"
        f"{config.render.resolution} -> {folder}/"
    )
