"""What mesh files hold that a scene does not take from them: materials, cameras, lights."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


@functools.cache
def warn_of_ignored(path: Path) -> None:
    """Logs what a mesh file holds that is ignored.

    A file is named once in a process, because an animation reads its meshes for every frame.
    """
    if found := ignored_content(path):
        _log.warning("%s: ignored: %s; the scene says what objects are made of", path, found)


def ignored_content(path: Path) -> str:
    """The parts of an OBJ or GLB file that are ignored, in words; "" if it has none.

    Args:
      path: a file that `rf_jax.scene.mesh.load_mesh` has read.
    """
    suffix = path.suffix.lower()
    if suffix == ".obj":
        with path.open("rb") as file:
            lines = (line.split(maxsplit=1) for line in file if line.startswith(b"mtllib"))
            names = [words[1].decode(errors="replace").strip() for words in lines if words[1:]]
        return ", ".join(f"material file {name}" for name in dict.fromkeys(names))
    if suffix != ".glb":
        return ""
    with path.open("rb") as file:  # a header of 12 bytes, the size and the type of the JSON, itself
        size = int.from_bytes(file.read(20)[12:16], "little")
        document = json.loads(file.read(size))
    lights = ("extensions", "KHR_lights_punctual", "lights")
    counts = {
        path[-1]: _length(document, path)
        for path in (("materials",), ("cameras",), ("animations",), lights)
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _length(value: Any, path: tuple[str, ...]) -> int:
    """The length of the list at a path of keys; 0 if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return len(value) if isinstance(value, list) else 0
