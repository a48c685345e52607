"""What mesh files hold that a scene does not take from them: materials, cameras, lights."""

import functools
import logging
from pathlib import Path
from typing import Any

from rf_jax.errors import listed
from rf_jax.files import read_bytes
from rf_jax.scene.mesh import MAX_MESH_BYTES
from rf_jax.scene.mesh_formats import glb_document

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
        data = read_bytes(path, MAX_MESH_BYTES)
        lines = (line.split(maxsplit=1) for line in data.splitlines() if line[:6] == b"mtllib")
        names = [words[1].decode(errors="replace").strip() for words in lines if words[1:]]
        names = list(dict.fromkeys(f"material file {name}" for name in names))
        return listed(names)
    if suffix != ".glb":
        return ""
    document = glb_document(read_bytes(path, MAX_MESH_BYTES))
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
