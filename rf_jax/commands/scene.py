"""Checks scenes before they are rendered.

    %(prog)s check scene.json
    %(prog)s check scene.json --checkpoint workdirs/tiny

Prints the counts and ranges of each scene, its objects, lights and views, and one warning for each
way in which it is unlike the scenes that the weights were trained on. Of a glTF file it also says
what became of its parts, and of a scene in another place or size what `rf-jax-render --fit` would
do, and which differences would be left.
"""

import argparse
from pathlib import Path

from rf_jax.command_line import make_parser
from rf_jax.errors import one_line
from rf_jax.scene import find_scene_files, load_scene
from rf_jax.scene.check import describe, scene_warnings
from rf_jax.scene.fit import FITTED, apply_fit, find_fit
from rf_jax.scene.gltf.file import GLTF_SUFFIXES
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.structs import Scene
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_trained_on

_NOTHING = "nothing to warn of"


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("command", choices=["check"], help="what to do")
    add(
        "scenes",
        nargs="+",
        metavar="SCENE",
        help="a scene file, a folder of frames, or the name of a bundled scene",
    )
    add("--checkpoint", help="compare with these weights (default: the bundled and the published)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    known = known_weights(args.checkpoint)
    for name in args.scenes:
        for file in find_scene_files(name):
            scene, table = _loaded(file)
            print(one_line(f"{file}:"), *table, *describe(scene), "", sep="\n")
            for weights, trained_on in known.items():
                for title, lines in comparisons(scene, trained_on).items():
                    print(title.format(weights), *lines, sep="\n  ")
            print()


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
