"""Mesh files that trimesh would read as another mesh, or whose reading never ends."""

import io
import json
import os
import struct

import numpy as np
import pytest
import trimesh

from rf_jax.datagen import primitives
from rf_jax.errors import InputError
from rf_jax.scene import mesh as meshes
from rf_jax.scene.ignored import ignored_content
from tests.scene.conftest import TETRAHEDRON

PLY = """ply
format {format} 1.0
comment made by hand
element vertex 3
property float x
property float y
property float z
element face {count}
property list uchar int vertex_indices
end_header
"""
ROWS = "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
TRIANGLE = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]).tobytes()
BINARY = TRIANGLE + struct.pack("<B3i", 3, 0, 1, 2)


@pytest.mark.parametrize(
    ("face", "line"),
    [
        ("f 0 1 2", 5),
        ("f 1 2 0", 5),
        ("f 1/1/1 2/0/1 3/1/1", 5),
        ("f 1//1 2//1 3//00", 5),
        ("\tf  1 -0 2", 5),
        ("f 1 2 \\\n 0", 5),
        ("v 9 9 9\nf 1 2 3\nf 1 2 0 3", 7),
    ],
)
def test_obj_index_zero(tmp_path, face, line):
    path = tmp_path / "a.obj"
    path.write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 0\n{face}\n")
    with pytest.raises(InputError, match=rf"a\.obj: line {line}: a face has the index 0"):
        meshes.load_mesh(path)


@pytest.mark.parametrize("face", ["f -4 -2 -3", "f 1/1 2/1 3/1", "f 1 2 10"])
def test_obj_other_indices(tmp_path, face):
    path = tmp_path / "a.obj"
    path.write_text("v 0 0 0\n" * 8 + "v 1 0 0\nv 0 1 0\nvt 0 0\n" + face + "\n")
    assert len(meshes.load_mesh(path).faces) == 1


def test_files_that_a_mesh_names_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mtl")
    os.mkfifo(tmp_path / "pipe.png")
    obj, ply = tmp_path / "a.obj", tmp_path / "a.ply"
    obj.write_text("mtllib pipe.mtl\nusemtl red\n" + TETRAHEDRON)
    ply.write_text(
        PLY.replace("made by hand", "TextureFile pipe.png").format(format="ascii", count=1) + ROWS
    )
    assert len(meshes.load_mesh(obj).faces) == 4 and len(meshes.load_mesh(ply).faces) == 1
    assert ignored_content(obj) == "material file pipe.mtl"


def test_faces_keep_their_order_without_materials(tmp_path):
    vertices, faces = primitives.icosphere(1)
    lines = [f"v {x} {y} {z}" for x, y, z in vertices]
    for i, face in enumerate(faces + 1):
        lines += [f"usemtl m{i // 9 % 3}", "f {} {} {}".format(*face)]
    path = tmp_path / "a.obj"
    path.write_text("\n".join(["mtllib a.mtl", *lines]))
    (tmp_path / "a.mtl").write_text("".join(f"newmtl m{i}\nKd 1 0 0\n" for i in range(3)))
    expected = trimesh.load_mesh(path, process=False)
    np.testing.assert_array_equal(meshes.load_mesh(path).triangles, expected.triangles)


def test_obj_of_many_materials(tmp_path):
    path = tmp_path / "a.obj"
    groups = "".join(f"usemtl m{i}\nf 1 2 3\n" for i in range(1001))
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n" + groups)
    with pytest.raises(InputError, match=r"expected at most 1000 materials .* found 1001"):
        meshes.load_mesh(path)


@pytest.mark.parametrize(
    ("kind", "body"), [("ascii", ROWS.encode()), ("binary_little_endian", BINARY)], ids=["a", "b"]
)
def test_ply_of_fewer_faces(tmp_path, kind, body):
    path = tmp_path / "a.ply"
    path.write_bytes(PLY.format(format=kind, count=1).encode() + body)
    assert len(meshes.load_mesh(path).faces) == 1
    for count in (15, 10**12):
        path.write_bytes(PLY.format(format=kind, count=count).encode() + body)
        with pytest.raises(InputError, match=rf"a\.ply: .*announces 3 vertex, {count} face"):
            meshes.load_mesh(path)


@pytest.mark.parametrize("header", ["ply\n", "ply\nelement vertex x\nend_header\n"])
def test_ply_headers(tmp_path, header):
    (tmp_path / "a.ply").write_text(header)
    with pytest.raises(InputError, match=r"a\.ply: (a PLY file without|expected an element)"):
        meshes.load_mesh(tmp_path / "a.ply")


def _glb(document):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I", len(text)) + b"JSON" + text
    chunks += struct.pack("<I", len(TRIANGLE)) + b"BIN\0" + TRIANGLE
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _document(accessor=None, pieces=1, nodes=1, **changes):
    array = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"} | (accessor or {})
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(nodes))}],
        "nodes": [{"mesh": 0}] * nodes,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}] * pieces}],
        "accessors": [array],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    } | changes


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (_document({"bufferView": None, "count": 10**9}), "accessors[0]: has no data"),
        (_document({"count": 10**9}), "announces 1000000000 elements, more than"),
        (
            _document({"count": 10**9}, bufferViews=[{"buffer": 0, "byteLength": 10**10}]),
            "announces 1000000000 elements, more than",
        ),
        (_document({"count": -3}), "count: expected an integer >= 0, found -3"),
        (_document({"count": "3"}), 'count: expected an integer >= 0, found "3"'),
        (_document({"bufferView": 7}), "accessors[0]: has no data"),
        (_document(pieces=1001), "found 1001 and"),
        (_document(pieces=40, nodes=40), "found 1600 and"),
        (_document(meshes=[{"primitives": [{"attributes": {"POSITION": 5}}]}]), "an array that"),
        (_document(meshes=[{"primitives": [3]}]), "expected pieces with attributes"),
        (_document(nodes=2, meshes=[]), "nodes: a mesh that does not exist"),
        (_document(nodes=1, accessors=5), "accessors: expected a list of objects"),
        ([1], "expected a JSON object"),
    ],
)
def test_glb_that_asks_for_more_than_it_holds(tmp_path, document, words):
    path = tmp_path / "a.glb"
    path.write_bytes(_glb(document))
    with pytest.raises(InputError) as error:
        meshes.load_mesh(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_glb_as_others_write_it(tmp_path):
    path = tmp_path / "a.glb"
    path.write_bytes(_glb(_document(nodes=3, extensions=[], cameras=[{}])))
    assert len(meshes.load_mesh(path).faces) == 3
    assert ignored_content(path) == "1 cameras"
    scene = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere()])
    scene.export(file_obj := io.BytesIO(), file_type="glb")
    path.write_bytes(file_obj.getvalue())
    assert len(meshes.load_mesh(path).faces) == 12 + 1280
