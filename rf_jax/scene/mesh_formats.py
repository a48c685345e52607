"""Checks of OBJ, PLY and GLB files that come before trimesh reads them.

trimesh forgives much: it takes index 0 of an OBJ for another vertex, reads the faces that are there
where more are announced, and fills a GLB with as many zeros as its header asks for. What is refused
here would be read as another mesh, or would take time and memory far beyond the size of the file.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from rf_jax.errors import InputError
from rf_jax.files import parse_json

MAX_PIECES = 1000
"""Most materials of an OBJ, and pieces of a GLB; trimesh's time grows with their square."""

MAX_VERTICES = 2**24
"""Most vertices and indices of all pieces of a GLB together, however often it repeats them."""

_INDEX_ZERO = re.compile(
    rb"^[ \t]*f[ \t](?:[^\n#]*[ \t/])?([-+]?0+)(?=[ \t\r\n/]|\Z)", re.MULTILINE
)
_MATERIAL = re.compile(rb"^[ \t]*usemtl([^\n]*)", re.MULTILINE)

_PLY_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}

_GLB_LISTS = ("accessors", "bufferViews", "meshes", "nodes")


def check_obj(data: bytes) -> None:
    """Checks an OBJ file.

    Raises:
      InputError: a face has the index 0, which no vertex has, or there are too many materials.
    """
    text = data.replace(b"\\\r\n", b"").replace(b"\\\n", b"")
    if match := _INDEX_ZERO.search(text):
        line = text.count(b"\n", 0, match.start(1)) + 1
        raise InputError(f"line {line}: a face has the index 0; indices count from 1, or from -1")
    if (found := len(set(_MATERIAL.findall(text)))) > MAX_PIECES:
        raise InputError(
            f"expected at most {MAX_PIECES} materials (usemtl), found {found}; scenes ignore them, "
            "so leave them out"
        )


def check_ply(data: bytes) -> None:
    """Checks that a PLY file holds as many elements as its header announces.

    Raises:
      InputError: it holds fewer, or its header cannot be understood.
    """
    header, end, body = data.partition(b"end_header")
    if not end:
        raise InputError("a PLY file without end_header")
    binary, elements = False, []
    for line in header.decode("latin-1").splitlines():
        match line.split():
            case ["format", name, *_]:
                binary = name != "ascii"
            case ["element", name, count] if re.fullmatch(r"\d{1,15}", count):
                elements.append([name, int(count), 0])
            case ["property", "list", size, *_] | ["property", size, *_] if elements:
                elements[-1][2] += _PLY_SIZES.get(size, 1)
            case ["element" | "property", *_]:
                raise InputError(f"expected an element or a property of one, found {line!r}")
    announced = ", ".join(f"{count} {name}" for name, count, _ in elements)
    if binary:
        least, found = sum(count * max(size, 1) for _, count, size in elements), len(body)
        unit = "bytes"
    else:
        least, found = sum(count for _, count, _ in elements), _num_lines(body)
        unit = "lines"
    if found < least:
        raise InputError(
            f"cut short: the header announces {announced}, which take {least} {unit} or more, "
            f"found {found}"
        )


def check_glb(data: bytes) -> None:
    """Checks that the arrays of a GLB file are in it, and that its nodes do not repeat them often.

    Raises:
      InputError: an array is larger than its data, compressed or sparse; or there are too many
        pieces or vertices.
    """
    document = glb_document(data)
    views = [_size(view, "byteLength", "bufferViews") for view in document["bufferViews"]]
    counts = []
    for i, accessor in enumerate(document["accessors"]):
        view = accessor.get("bufferView")
        if type(view) is not int or not 0 <= view < len(views):
            raise InputError(f"accessors[{i}]: has no data; uncompressed arrays are expected")
        counts.append(_size(accessor, "count", "accessors"))
        if counts[-1] > min(views[view], len(data)):
            raise InputError(
                f"accessors[{i}]: announces {counts[-1]} elements, more than its data can hold"
            )
    pieces = [_pieces(mesh, counts) for mesh in document["meshes"]]
    used = [node["mesh"] for node in document["nodes"] if "mesh" in node]
    if not all(type(mesh) is int and 0 <= mesh < len(pieces) for mesh in used):
        raise InputError("nodes: a mesh that does not exist")
    num_pieces = sum(len(pieces[mesh]) for mesh in used)
    num_vertices = max(sum(counts), sum(sum(pieces[mesh]) for mesh in used))
    if num_pieces > MAX_PIECES or num_vertices > MAX_VERTICES:
        raise InputError(
            f"expected at most {MAX_PIECES} pieces and {MAX_VERTICES:,} vertices and indices, "
            f"found {num_pieces} and {num_vertices:,}; join or simplify the meshes"
        )


def glb_document(data: bytes) -> dict[str, Any]:
    """The JSON of a GLB file, in which the lists of `_GLB_LISTS` are there and hold objects.

    Raises:
      InputError: the file is cut short or malformed.
    """
    # A header of 12 bytes, the size and the type of the JSON, the JSON itself
    size = int.from_bytes(data[12:16], "little")
    if data[:4] != b"glTF" or data[16:20] != b"JSON" or 20 + size > len(data):
        raise InputError("not a GLB file, or cut short")
    document = parse_json(data[20 : 20 + size])
    if not isinstance(document, dict):
        raise InputError("expected a JSON object")
    for name in _GLB_LISTS:
        items = document.setdefault(name, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{name}: expected a list of objects")
    return document


CHECKS: dict[str, Callable[[bytes], None]] = {
    ".obj": check_obj,
    ".ply": check_ply,
    ".glb": check_glb,
}
"""The check of each kind of file, by its suffix."""


def _num_lines(body: bytes) -> int:
    return sum(1 for line in body.split(b"\n") if line.strip())


def _size(item: dict[str, Any], key: str, where: str) -> int:
    value = item.get(key)
    if type(value) is not int or value < 0:
        raise InputError(f"{where}: {key}: expected an integer >= 0, found {json.dumps(value)}")
    return value


def _pieces(mesh: dict[str, Any], counts: list[int]) -> list[int]:
    """The number of vertices and indices of each piece of a mesh."""
    pieces = []
    for piece in mesh.get("primitives") or []:
        attributes = piece.get("attributes") if isinstance(piece, dict) else None
        if not isinstance(attributes, dict):
            raise InputError("meshes: expected pieces with attributes")
        used = [*attributes.values(), *([piece["indices"]] if "indices" in piece else [])]
        if not all(type(index) is int and 0 <= index < len(counts) for index in used):
            raise InputError("meshes: an array that does not exist")
        pieces.append(sum(counts[index] for index in used))
    return pieces
