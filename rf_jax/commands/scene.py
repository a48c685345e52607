"""Checks scenes before they are rendered, and writes them as JSON.

    %(prog)s check scene.json
    %(prog)s check scene.json --checkpoint workdirs/tiny
    %(prog)s to_json scene.glb --fit        # a description with OBJ meshes, to edit

`check` prints the counts and ranges of each scene, its objects, lights and views, and one warning
for each way in which it is unlike the scenes that the weights were trained on. Of a glTF file it
also says what became of its parts, and of a scene in another place or size what
`rf-jax-render --fit` would do, and which differences would be left.

`to_json` writes NAME.json and the folder NAME_meshes.
"""

import argparse
from pathlib import Path

from rf_jax.command_line import make_parser
from rf_jax.errors import InputError, one_line, prefix_errors
from rf_jax.scene import find_scene_files, load_scene
from rf_jax.scene.check import describe, scene_warnings
from rf_jax.scene.fit import FITTED, apply_fit, find_fit
from rf_jax.scene.gltf.file import GLTF_SUFFIXES
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.scene.to_json import save_json
from rf_jax.structs import Scene
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_trained_on

_NOTHING = "nothing to warn of"


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("command", choices=["check", "to_json"], help="what to do")
    add(
        "scenes",
        nargs="+",
        metavar="SCENE",
        help="a scene file, a folder of frames, or the name of a bundled scene",
    )
    add(
        "--checkpoint",
        help="compare with, or fit to, these weights (default: the bundled and the published ones; "
        "for --fit the published)",
    )
    add("--output_dir", type=Path, default=Path("output"), help="to_json: folder for the files")
    add("--fit", action="store_true", help="to_json: as rf-jax-render --fit")
    args = parser.parse_args()
    if args.fit and args.command == "check":
        parser.error("--fit: is for to_json; check says what it would do")
    return args


def main() -> None:
    args = parse_args()
    files = [file for name in args.scenes for file in find_scene_files(name)]
    if args.command == "check":
        _check(files, args.checkpoint)
    else:
        trained_on = PUBLISHED if args.checkpoint is None else load_trained_on(args.checkpoint)
        _to_json(files, args.output_dir, trained_on if args.fit else None)


def _check(files: list[Path], checkpoint: str | None) -> None:
    known = known_weights(checkpoint)
    for file in files:
        scene, table = _loaded(file)
        print(one_line(f"{file}:"), *table, *describe(scene), "", sep="\n")
        for weights, trained_on in known.items():
            for title, lines in comparisons(scene, trained_on).items():
                print(title.format(weights), *lines, sep="\n  ")
        print()


def _to_json(files: list[Path], folder: Path, trained_on: TrainedOn | None) -> None:
    """Writes scenes, which are fitted to `trained_on` if that is given."""
    for file in files:
        path = folder / f"{file.stem}.json"
        if path.exists():
            raise InputError(f"{path}: exists already; choose another --output_dir")
        scene, table = _loaded(file)
        if table:
            print(*table[:-1], sep="\n")
        with prefix_errors(str(file)):
            if trained_on is not None:
                fit = find_fit(scene, trained_on)
                scene = apply_fit(scene, fit)
                print(fit)
            count = len(save_json(scene, path).objects)
        print(one_line(f"{count} objects -> {path}"))


def _loaded(file: Path) -> tuple[Scene, list[str]]:
    """A scene, and for a glTF file the table of what became of its parts."""
    if file.suffix.lower() not in GLTF_SUFFIXES:
        return load_scene(file), []
    scene, report = load_gltf(file)
    return scene, [*report.lines(), ""]


def comparisons(scene: Scene, trained_on: TrainedOn) -> dict[str, list[str]]:
    """How a scene differs from those that weights saw: as it is, and with `--fit` if that helps."""
    found = scene_warnings(scene, trained_on)
    lines = {"compared with {}:": list(found.values()) or [_NOTHING]}
    if FITTED & found.keys():
        fit = find_fit(scene, trained_on)
        left = scene_warnings(apply_fit(scene, fit), trained_on)
        lines[f"with --fit, {fit}:"] = list(left.values()) or [_NOTHING]
    return lines


def known_weights(checkpoint: str | None) -> dict[str, TrainedOn]:
    """What weights were trained on, by their names."""
    if checkpoint is not None:
        return {checkpoint: load_trained_on(checkpoint)}
    return {
        "the bundled network": load_trained_on(BUNDLED_WEIGHTS),
        "the published networks": PUBLISHED,
    }
