"""Scene files: JSON descriptions with meshes, HDF5 files, glTF files, and bundled scenes."""

import os
import re
from pathlib import Path

from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import read_json
from rf_jax.scene.dataset import H5_FILES
from rf_jax.scene.description import load_scene_description, parse_scene_description
from rf_jax.scene.description_v2 import refuse_v2
from rf_jax.scene.gltf.file import GLTF_SUFFIXES
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.scene.h5 import load_attributes, load_h5, load_images, save_h5
from rf_jax.scene.triangles import build_scene
from rf_jax.scene.validate import validate_scene
from rf_jax.structs import Scene

__all__ = [
    "build_scene",
    "bundled_scene",
    "bundled_scene_names",
    "find_scene_files",
    "load_attributes",
    "load_h5",
    "load_images",
    "load_scene",
    "load_scene_description",
    "parse_scene_description",
    "save_h5",
    "scene_file",
    "validate_scene",
]

_BUNDLED = Path(__file__).parent.parent / "assets" / "scenes"


def load_scene(path: str | Path) -> Scene:
    """Loads a scene.

    Args:
      path: a JSON description (`.json`), an HDF5 file (`.h5`, `.hdf5`), a glTF file (`.glb`,
        `.gltf`), or the name of a bundled scene.

    Returns:
      An unbatched scene of NumPy float32 arrays without a mask. The objects of a JSON description
      and of a glTF file keep their names.

    Raises:
      InputError: names the file, the field, what was expected and what was found.
    """
    path = scene_file(path)
    if path.suffix.lower() in GLTF_SUFFIXES:
        return load_gltf(path)[0]
    if path.suffix.lower() != ".json":
        return load_h5(path)
    value = read_json(path)
    with prefix_errors(str(path)):
        refuse_v2(value)
        return build_scene(parse_scene_description(value), path.parent)


def scene_file(path: str | Path) -> Path:
    """The path of a scene file, or of the file of a bundled scene; it need not exist.

    Raises:
      InputError: an animation, or no kind of scene.
    """
    if not os.path.exists(path) and str(path) in bundled_scene_names():
        path = bundled_scene(str(path))
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path}: an animation; load one of its frames, see find_scene_files")
    if path.suffix.lower() not in (*GLTF_SUFFIXES, ".json", ".h5", ".hdf5"):
        raise InputError(
            f"{path}: expected a scene file ending in .json, .h5, .hdf5, .glb or .gltf, or a "
            f"bundled scene ({', '.join(bundled_scene_names())})"
        )
    return path


def find_scene_files(source: str | Path) -> list[Path]:
    """Finds the files of a scene or an animation.

    Args:
      source: a scene file, the name of a bundled scene, or a folder of frames that are all `.h5`
        or all `.json` files.

    Returns:
      one file, or the frames in natural order (frame_2 before frame_10).

    Raises:
      InputError: there is no such scene, or the folder has no frames, or frames of both kinds.
    """
    path = Path(source)
    if not os.path.exists(path):
        if str(source) not in bundled_scene_names():
            raise InputError(
                f"{source}: no such scene file or folder, nor a bundled scene "
                f"({', '.join(bundled_scene_names())})"
            )
        path = bundled_scene(str(source))
    return _frames(path) if path.is_dir() else [path]


def bundled_scene_names() -> list[str]:
    """The names that `bundled_scene` accepts."""
    return sorted({path.parent.name for path in _BUNDLED.glob("*/*.json")})


def bundled_scene(name: str) -> Path:
    """Finds a scene of this package: its JSON file, or the folder of an animation's frames.

    Raises:
      InputError: there is no such scene; lists the names of all.
    """
    names = bundled_scene_names()
    if name not in names:
        raise InputError(f"no bundled scene named {name!r}; there are {', '.join(names)}")
    still = _BUNDLED / name / "scene.json"
    return still if still.exists() else still.parent


def _frames(folder: Path) -> list[Path]:
    h5_files = list(folder.glob(H5_FILES))
    # A generated dataset has its configuration in the same folder
    json_files = [path for path in folder.glob("[!.]*.json") if path.name != "config.json"]
    if h5_files and json_files:
        raise InputError(
            f"{folder}: expected *.h5 or *.json files, found both; separate them into two folders"
        )
    if not h5_files and not json_files:
        raise InputError(f"{folder}: expected *.h5 or *.json files in this folder, found none")
    return sorted(h5_files + json_files, key=_natural_key)


def _natural_key(path: Path) -> list[tuple[int, str]]:
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece) if i % 2 else -1, piece) for i, piece in enumerate(pieces)]
