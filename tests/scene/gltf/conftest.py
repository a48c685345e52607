"""A glTF file with one triangle, as a document and arrays, for tests to change and to write."""

import base64
import copy
import json

import numpy as np
import pytest

KINDS = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125, "i1": 5120, "i2": 5122}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """Collects parts of a file and writes them, with as little of glTF as a test needs."""

    def __init__(self):
        self.document = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.data = b""

    def add(self, kind, **value):
        """Adds to one of the document's lists; returns the index."""
        items = self.document.setdefault(kind, [])
        items.append(value)
        return len(items) - 1

    def bytes(self, data):
        self.data += bytes(-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.data += data
        return self.add("bufferViews", **view)

    def array(self, values, kind="f4", **more):
        values = np.asarray(values, kind)
        values = values.reshape(len(values), -1)
        view = self.bytes(values.tobytes())
        kinds = {"componentType": KINDS[kind], "type": TYPES[values.shape[1]]}
        return self.add("accessors", bufferView=view, count=len(values), **kinds, **more)

    def triangles(self, positions, material=None, indices=None, mode=4, **attributes):
        """A primitive; attributes are float arrays, or indices of accessors."""
        arrays = {"POSITION": positions, **attributes}
        primitive = {
            "attributes": {
                name: values if isinstance(values, int) else self.array(values)
                for name, values in arrays.items()
            },
            "mode": mode,
        }
        if material is not None:
            primitive["material"] = self.add("materials", **material)
        if indices is not None:
            primitive["indices"] = self.array(indices, "u2")
        return primitive

    def node(self, root=True, primitives=None, **value):
        if primitives is not None:
            value["mesh"] = self.add("meshes", primitives=primitives)
        index = self.add("nodes", **value)
        if root:
            self.document["scenes"][0]["nodes"].append(index)
        return index

    def light(self, **light):
        extension = self.document.setdefault("extensions", {})
        lights = extension.setdefault("KHR_lights_punctual", {"lights": []})["lights"]
        lights.append(light)
        return {"KHR_lights_punctual": {"light": len(lights) - 1}}

    def image(self, data):
        """A texture of a PNG; returns its index."""
        source = self.add("images", bufferView=self.bytes(data), mimeType="image/png")
        return self.add("textures", source=source)

    def write(self, path):
        """Writes `.glb`, or `.gltf` with its buffer inside."""
        document = copy.deepcopy(self.document)
        buffer = {"byteLength": len(self.data)}
        if path.suffix == ".gltf":
            text = base64.b64encode(self.data).decode()
            buffer["uri"] = f"data:application/octet-stream;base64,{text}"
            path.write_text(json.dumps({**document, "buffers": [buffer]}))
            return path
        path.write_bytes(glb_bytes({"buffers": [buffer], **document}, self.data))
        return path


def glb_bytes(document, data):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    data += bytes(-len(data) % 4)
    size = 12 + 8 + len(text) + 8 + len(data)
    header = b"glTF" + (2).to_bytes(4, "little") + size.to_bytes(4, "little")
    json_chunk = len(text).to_bytes(4, "little") + b"JSON" + text
    return header + json_chunk + len(data).to_bytes(4, "little") + b"BIN\0" + data


CORNER = [[0, 0, 0], [1, 0, 0], [0, 2, 0]]
"""A triangle in glTF's xy plane."""


@pytest.fixture
def gltf():
    return Gltf()


@pytest.fixture
def triangle(gltf):
    """The file with the triangle `CORNER`, in a node called corner."""
    gltf.node(name="corner", primitives=[gltf.triangles(CORNER)])
    return gltf
