"""Scenes on disk: JSON descriptions with meshes, HDF5 files, and the scenes that come along."""

import re
from pathlib import Path

from rf_jax.errors import InputError, prefix_errors
from rf_jax.scene.h5 import load_attributes, load_h5, load_images, save_h5
from rf_jax.scene.schema import SceneDescription, load_scene_description, parse_scene_description
from rf_jax.scene.triangles import build_scene
from rf_jax.scene.validate import validate_scene
from rf_jax.structs import Scene

__all__ = [
    "SceneDescription",
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
    "validate_scene",
]

_BUNDLED = Path(__file__).parent.parent / "assets" / "scenes"


def load_scene(path: str | Path) -> Scene:
    """Loads a scene file: a JSON description (`.json`) or HDF5 (`.h5`, `.hdf5`).

    Returns:
      An unbatched scene of NumPy float32 arrays without a mask.

    Raises:
      InputError: one line that names the file, the field, what was expected and what was found.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return load_h5(path)
    if suffix != ".json":
        raise InputError(f"{path}: expected a scene file ending in .json, .h5 or .hdf5")
    description = load_scene_description(path)
    with prefix_errors(str(path)):
        return build_scene(description, path.parent)


def find_scene_files(path: str | Path) -> list[Path]:
    """The file itself, or the `*.h5` of a folder in natural order (frame_2 before frame_10).

    Raises:
      InputError: there is no such file or folder, or the folder has no `*.h5`.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        return [path]
    files = sorted(path.glob("*.h5"), key=_natural_key)
    if not files:
        raise InputError(f"{path}: expected *.h5 files in this folder, found none")
    return files


def bundled_scene_names() -> list[str]:
    """The names that `bundled_scene` accepts."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/scene.json"))


def bundled_scene(name: str) -> Path:
    """The JSON file of a scene that comes with the package.

    Raises:
      InputError: no such scene; lists those there are.
    """
    names = bundled_scene_names()
    if name not in names:
        raise InputError(f"no bundled scene named {name!r}; there are {', '.join(names)}")
    return _BUNDLED / name / "scene.json"


def _natural_key(path: Path) -> list[tuple[int, str]]:
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece) if i % 2 else -1, piece) for i, piece in enumerate(pieces)]
