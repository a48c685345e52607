"""Reads the container of a glTF 2.0 file: its document, its buffers and the arrays in them.

The document is parsed here rather than by a library, because every index and every size of a
damaged or hostile file has to be checked before it is followed.
"""

import base64
import binascii
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rf_jax import schema
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import parse_json, read_bytes
from rf_jax.scene.gltf.schema import Accessor, Document, Sparse
from rf_jax.scene.mesh import MAX_MESH_BYTES
from rf_jax.scene.mesh_formats import MAX_VERTICES, glb_document

GLTF_SUFFIXES = (".glb", ".gltf")

READ_EXTENSIONS = frozenset(
    {
        "EXT_texture_webp",
        "KHR_lights_punctual",
        "KHR_materials_emissive_strength",
        "KHR_materials_ior",
        "KHR_materials_pbrSpecularGlossiness",
        "KHR_materials_specular",
        "KHR_mesh_quantization",
        "KHR_texture_transform",
    }
)
"""The extensions that are taken over."""

_COMPRESSED = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

T = TypeVar("T")


class GltfFile:
    """An open glTF file.

    Attributes:
      path: where it is; other files that it names are relative to its folder.
      document: its checked JSON.
    """

    def __init__(self, path: str | Path):
        """Reads a `.glb` or `.gltf` file with its buffers.

        Raises:
          InputError: it cannot be read, is not glTF 2.0, is compressed, or is cut short.
        """
        self.path = Path(path)
        data = read_bytes(path, MAX_MESH_BYTES)
        with prefix_errors(str(path)):
            is_binary = data[:4] == b"glTF"
            value = glb_document(data) if is_binary else parse_json(data)
            self.document = _checked_document(value)
            chunk = _binary_chunk(data) if is_binary else None
            self._buffers = self._read_buffers(chunk)
            count = sum(accessor.count for accessor in self.document.accessors)
            if count > MAX_VERTICES:
                raise InputError(
                    f"expected at most {MAX_VERTICES:,} vertices and indices, found {count:,}; "
                    "simplify the meshes"
                )
        self._arrays: dict[int, np.ndarray] = {}

    def array(self, index: int, where: str) -> np.ndarray:
        """The array [count, components] of an accessor.

        Integers that stand for fractions become float64, and floats must be finite.

        Raises:
          InputError: it does not exist, is not in its buffer, or holds NaN; `where` says what
            refers to it.
        """
        if index not in self._arrays:
            accessor = item(self.document.accessors, index, where)
            with prefix_errors(f"accessors[{index}]"):
                self._arrays[index] = self._read_array(accessor)
        return self._arrays[index]

    def view(self, index: int, where: str) -> memoryview:
        """The bytes of a buffer view.

        Raises:
          InputError: it does not exist, or is not in its buffer.
        """
        view = item(self.document.bufferViews, index, where)
        buffer = item(self._buffers, view.buffer, f"bufferViews[{index}].buffer")
        end = view.byteOffset + view.byteLength
        if end > len(buffer):
            raise InputError(
                f"bufferViews[{index}]: ends at byte {end} of a buffer of {len(buffer)}; "
                "the file is damaged"
            )
        return buffer[view.byteOffset : end]

    def external(self, uri: str) -> bytes:
        """The content of a `data:` URI, or of a file beside this one.

        Raises:
          InputError: it is missing, or somewhere else.
        """
        if uri.startswith("data:"):
            _, comma, text = uri.partition(";base64,")
            try:
                if not comma:
                    raise ValueError
                return base64.b64decode(text, validate=True)
            except (ValueError, binascii.Error) as error:
                raise InputError("expected a data URI in base64") from error
        parts = urllib.parse.urlsplit(uri)
        name = urllib.parse.unquote(parts.path)
        if parts.scheme or parts.netloc or name.startswith("/"):
            raise InputError(f"expected a path relative to the file, found {uri[:60]!r}")
        return read_bytes(self.path.parent / name, MAX_MESH_BYTES)

    def _read_buffers(self, chunk: bytes | None) -> list[memoryview]:
        buffers, total = [], 0
        for index in range(len(self.document.buffers)):
            buffers.append(self._read_buffer(index, chunk))
            total += len(buffers[-1])
            if total > MAX_MESH_BYTES:  # many of them may name one file
                raise InputError(f"buffers: expected at most {MAX_MESH_BYTES:,} bytes in all")
        return buffers

    def _read_buffer(self, index: int, chunk: bytes | None) -> memoryview:
        buffer = self.document.buffers[index]
        with prefix_errors(f"buffers[{index}]"):
            if buffer.uri is not None:
                data = self.external(buffer.uri)
            elif chunk is not None and index == 0:
                data = chunk
            else:
                raise InputError("has neither a uri nor the data of a GLB file")
            if len(data) < buffer.byteLength:
                raise InputError(
                    f"announces {buffer.byteLength} bytes, found {len(data)}; the file is cut short"
                )
        return memoryview(data)

    def _read_array(self, accessor: Accessor) -> np.ndarray:
        if accessor.componentType not in _TYPES or accessor.type not in _SIZES:
            raise InputError(
                f"unknown componentType {accessor.componentType} or type {accessor.type!r}"
            )
        kind, width = np.dtype(_TYPES[accessor.componentType]), _SIZES[accessor.type]
        shape = accessor.count, width
        if accessor.bufferView is not None:
            array = self._elements(accessor.bufferView, accessor.byteOffset, kind, shape)
        elif accessor.sparse is not None:
            array = np.zeros(shape, kind)
        else:
            raise InputError("has no data")
        if accessor.sparse is not None:
            array = self._with_sparse(array, accessor.sparse)
        if kind.kind == "f":
            if bad := int((~np.isfinite(array)).sum()):
                raise InputError(f"expected finite numbers, found {bad} others")
            return array.astype(np.float64)
        if accessor.normalized:
            return np.maximum(array / np.iinfo(kind).max, -1.0)
        return array

    def _elements(
        self, view: int, offset: int, kind: np.dtype, shape: tuple[int, int], where: str = ""
    ) -> np.ndarray:
        """Elements [count, width] of a type in a buffer view."""
        data, (count, width) = self.view(view, f"{where}bufferView"), shape
        size = kind.itemsize * width
        stride = self.document.bufferViews[view].byteStride or size
        end = offset + (count - 1) * stride + size if count else offset
        if stride < size or end > len(data):
            raise InputError(
                f"{where}needs {end} bytes in steps of at least {size}, found {len(data)} in steps "
                f"of {stride}; the file is damaged"
            )
        return np.ndarray(shape, kind, data, offset, (stride, kind.itemsize))

    def _with_sparse(self, array: np.ndarray, sparse: Sparse) -> np.ndarray:
        """The array with the elements that the accessor replaces."""
        kind = _TYPES.get(sparse.indices.componentType)
        if kind not in ("u1", "<u2", "<u4"):
            raise InputError(
                f"sparse.indices: unknown componentType {sparse.indices.componentType}"
            )
        if sparse.count > len(array):
            raise InputError(f"sparse: replaces {sparse.count} of {len(array)} elements")
        places = self._elements(
            sparse.indices.bufferView,
            sparse.indices.byteOffset,
            np.dtype(kind),
            (sparse.count, 1),
            "sparse.indices: ",
        )[:, 0]
        values = self._elements(
            sparse.values.bufferView,
            sparse.values.byteOffset,
            array.dtype,
            (sparse.count, array.shape[1]),
            "sparse.values: ",
        )
        if sparse.count and places.max() >= len(array):
            raise InputError(f"sparse.indices: expected at most {len(array) - 1}")
        array = array.copy()
        array[places] = values
        return array


def item(items: Sequence[T], index: int, where: str) -> T:
    """An item that another part of the file refers to.

    Raises:
      InputError: it does not exist.
    """
    if not 0 <= index < len(items):
        raise InputError(f"{where}: expected an index below {len(items)}, found {index}")
    return items[index]


def _checked_document(value: Any) -> Document:
    if isinstance(value, dict) and "asset" not in value:
        raise InputError("expected a glTF document, found JSON without the key asset")
    document = schema.parse(Document, value)
    if not document.asset.version.startswith("2."):
        raise InputError(f"expected glTF 2, found version {document.asset.version!r}")
    for name in document.extensionsRequired:
        if name in _COMPRESSED:
            raise InputError(
                f"compressed by {_COMPRESSED[name]} ({name}), which is not read; export it "
                "without compression"
            )
        # Without its material extensions a scene only looks simpler
        if name not in READ_EXTENSIONS and not name.startswith("KHR_materials_"):
            raise InputError(f"needs the extension {name}, which is not read; export without it")
    return document


def _binary_chunk(data: bytes) -> bytes | None:
    """The chunk of a GLB file that holds its first buffer; None if there is none."""
    if (version := int.from_bytes(data[4:8], "little")) != 2:
        raise InputError(f"expected version 2 of GLB, found {version}")
    if (length := int.from_bytes(data[8:12], "little")) > len(data):
        raise InputError(f"announces {length} bytes, found {len(data)}; the file is cut short")
    start = 20 + int.from_bytes(data[12:16], "little")
    size = int.from_bytes(data[start : start + 4], "little")
    if data[start + 4 : start + 8] != b"BIN\0":
        return None
    if start + 8 + size > len(data):
        raise InputError("its buffer is cut short")
    return data[start + 8 : start + 8 + size]
