"""The container of glTF files: arrays of all forms, and files that are damaged or hostile."""

import json
import math

import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_scene
from rf_jax.scene.gltf import file as file_module
from rf_jax.scene.gltf import load as load_module
from rf_jax.scene.gltf.file import GltfFile
from tests.scene.gltf.conftest import CORNER, glb_bytes


def positions(gltf, tmp_path):
    """The triangles of the only mesh, with y up again."""
    scene = load_scene(gltf.write(tmp_path / "a.glb"))
    x, y, z = np.moveaxis(scene.triangles[:-1], -1, 0)  # without the light
    return np.stack([x, z, -y], axis=-1)


def test_gltf_with_its_buffer_inside(triangle, tmp_path):
    one, other = (load_scene(triangle.write(tmp_path / name)) for name in ("a.gltf", "a.glb"))
    np.testing.assert_array_equal(one.triangles, other.triangles)


def test_gltf_with_a_buffer_beside_it(triangle, tmp_path):
    (tmp_path / "my data.bin").write_bytes(triangle.data)
    buffer = {"byteLength": len(triangle.data), "uri": "my%20data.bin"}
    path = tmp_path / "a.gltf"
    path.write_text(json.dumps({**triangle.document, "buffers": [buffer]}))
    assert load_scene(path).object_names == ("corner", "light")
    (tmp_path / "my data.bin").unlink()
    with pytest.raises(InputError, match=r"a.gltf: buffers\[0\]: .*my data.bin: no such file"):
        load_scene(path)


@pytest.mark.parametrize("uri", ["/etc/passwd", "https://a.b/c.bin", "file:///etc/passwd"])
def test_buffers_elsewhere_are_not_opened(triangle, tmp_path, uri):
    triangle.document["buffers"] = [{"byteLength": 4, "uri": uri}]
    with pytest.raises(InputError, match="expected a path relative to the file"):
        load_scene(triangle.write(tmp_path / "a.glb"))


def test_interleaved_arrays(gltf, tmp_path):
    values = np.zeros((3, 8), np.float32)
    values[:, 1:4], values[:, 4:7] = CORNER, [0, 0, -1]
    view = gltf.bytes(values.tobytes())
    gltf.document["bufferViews"][view]["byteStride"] = 32
    form = {"bufferView": view, "componentType": 5126, "count": 3, "type": "VEC3"}
    where = gltf.add("accessors", byteOffset=4, **form)
    normal = gltf.add("accessors", byteOffset=16, **form)
    gltf.node(primitives=[gltf.triangles(where, NORMAL=normal)])
    np.testing.assert_array_equal(positions(gltf, tmp_path)[0], CORNER)
    np.testing.assert_array_equal(load_scene(tmp_path / "a.glb").vertex_normals[0], [[0, 1, 0]] * 3)


def test_sparse_arrays(gltf, tmp_path):
    indices, values = (
        gltf.bytes(np.uint16([2]).tobytes()),
        gltf.bytes(np.float32([0, 5, 0]).tobytes()),
    )
    sparse = {
        "count": 1,
        "indices": {"bufferView": indices, "componentType": 5123},
        "values": {"bufferView": values},
    }
    gltf.node(primitives=[gltf.triangles(gltf.array(CORNER, sparse=sparse))])
    np.testing.assert_array_equal(positions(gltf, tmp_path)[0], [[0, 0, 0], [1, 0, 0], [0, 5, 0]])


def test_quantized_positions(gltf, tmp_path):
    whole = gltf.array(np.multiply(CORNER, 100), "i2")
    fraction = gltf.array(np.multiply(CORNER, 50), "i1", normalized=True)
    gltf.node(primitives=[gltf.triangles(whole)])
    gltf.node(primitives=[gltf.triangles(fraction)])
    found = positions(gltf, tmp_path)
    np.testing.assert_array_equal(found[0], np.multiply(CORNER, 100))
    np.testing.assert_allclose(found[1], np.multiply(CORNER, 50 / 127), rtol=1e-6)


SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("mode", "indices"),
    [(4, [0, 1, 2, 0, 2, 3]), (5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])],
    ids=["triangles", "strip", "fan"],
)
def test_the_order_of_corners(gltf, tmp_path, mode, indices):
    """A square in front: all triangles are counter-clockwise, and cover it."""
    gltf.node(primitives=[gltf.triangles(SQUARE, indices=indices, mode=mode)])
    triangles = positions(gltf, tmp_path)
    areas = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2
    np.testing.assert_allclose(areas, [[0, 0, 0.5]] * 2)
    corners = {tuple(point) for point in triangles.reshape(-1, 3).tolist()}
    assert corners == {tuple(point) for point in np.array(SQUARE, float).tolist()}


def test_points_and_lines_are_left_out(triangle, tmp_path):
    for mode in (0, 1, 3):
        triangle.node(primitives=[triangle.triangles(CORNER, mode=mode)])
    assert load_scene(triangle.write(tmp_path / "a.glb")).object_names == ("corner", "light")


def test_files_cut_short(triangle, tmp_path):
    data = triangle.write(tmp_path / "a.glb").read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / "cut.glb").write_bytes(data[:size])
        with pytest.raises(InputError, match=r"cut\.glb: "):
            load_scene(tmp_path / "cut.glb")


def change(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    document[last] = value


PRIMITIVE = ("meshes", 0, "primitives", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("asset",), {"version": "1.0"}, "expected glTF 2, found version '1.0'"),
        (("asset",), {}, "asset.version: missing key"),
        (("nodes", 0, "mesh"), "0", r"nodes\[0\].mesh: expected an integer >= 0, found \"0\""),
        (("nodes", 0, "mesh"), -1, r"nodes\[0\].mesh: expected an integer >= 0"),
        (("nodes",), 3, "nodes: expected a list"),
        (("scene",), 2, "scene: expected an index below 1, found 2"),
        ((*PRIMITIVE, "attributes"), {}, r"primitives\[0\].attributes: expected POSITION"),
        ((*PRIMITIVE, "attributes", "POSITION"), 9, "POSITION: expected an index below 1, found 9"),
        ((*PRIMITIVE, "material"), 0, "material: expected an index below 0, found 0"),
        ((*PRIMITIVE, "indices"), 0, "indices: expected unsigned integers"),
        ((*PRIMITIVE, "mode"), 1, "expected a mesh with triangles"),
        (("accessors", 0, "count"), 4, "needs 48 bytes in steps of at least 12, found 36"),
        (("accessors", 0, "count"), 2, "expected three corners a triangle, found 2"),
        (("accessors", 0, "count"), 10**12, "expected at most 16,777,216 vertices and indices"),
        (("accessors", 0, "byteOffset"), 10**60, "needs 1000"),
        (("accessors", 0, "type"), "VEC2", "POSITION: expected 3 numbers a vertex, found 2"),
        (("accessors", 0, "type"), "VEC9", "unknown componentType 5126 or type 'VEC9'"),
        (("accessors", 0, "bufferView"), 1, "bufferView: expected an index below 1"),
        (("bufferViews", 0, "byteLength"), 99, r"bufferViews\[0\]: ends at byte 99 of a buffer"),
        (("bufferViews", 0, "byteStride"), 4, "in steps of 4; the file is damaged"),
        (("bufferViews", 0, "buffer"), 1, "buffer: expected an index below 1"),
        (("buffers",), [{"byteLength": 10**9}], "announces 1000000000 bytes, found 36"),
        (("buffers",), [{"byteLength": 4, "uri": "data:,abc"}], "expected a data URI in base64"),
        (("extensionsRequired",), ["KHR_draco_mesh_compression"], "compressed by Draco"),
        (("extensionsRequired",), ["EXT_meshopt_compression"], "compressed by meshopt"),
        (("extensionsRequired",), ["KHR_texture_basisu"], "needs the extension KHR_texture_basisu"),
    ],
)
def test_documents_that_are_wrong(triangle, tmp_path, path, value, message):
    change(triangle.document, path, value)
    with pytest.raises(InputError, match=rf"^[^\n]*a\.glb: .*{message}"):
        load_scene(triangle.write(tmp_path / "a.glb"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(gltf, tmp_path, value):
    gltf.node(primitives=[gltf.triangles([[0, 0, 0], [1, 0, value], [0, 1, 0]])])
    with pytest.raises(
        InputError, match=r"accessors\[0\]: expected finite numbers, found 1 others"
    ):
        load_scene(gltf.write(tmp_path / "a.glb"))


def test_indices_out_of_range(gltf, tmp_path):
    gltf.node(primitives=[gltf.triangles(CORNER, indices=[0, 1, 3])])
    with pytest.raises(InputError, match="indices: expected indices below 3, found 3"):
        load_scene(gltf.write(tmp_path / "a.glb"))


def test_a_mesh_that_is_repeated_without_end(gltf, tmp_path, monkeypatch):
    monkeypatch.setattr("rf_jax.scene.triangles.MAX_TRIANGLES", 10)
    mesh = gltf.add("meshes", primitives=[gltf.triangles(3 * CORNER)])
    for _ in range(4):
        gltf.node(mesh=mesh)
    with pytest.raises(InputError, match="expected at most 10 triangles"):
        load_scene(gltf.write(tmp_path / "a.glb"))


def test_primitives_that_share_an_array_are_counted_one_by_one(gltf, tmp_path, monkeypatch):
    baked, bake = [], load_module.bake

    def counted(*arguments):
        baked.append(bake(*arguments))
        return baked[-1]

    monkeypatch.setattr("rf_jax.scene.triangles.MAX_TRIANGLES", 10)
    monkeypatch.setattr(load_module, "bake", counted)
    positions = gltf.array(3 * CORNER)
    gltf.node(primitives=[gltf.triangles(positions) for _ in range(100)])
    with pytest.raises(InputError, match="expected at most 10 triangles"):
        load_scene(gltf.write(tmp_path / "a.glb"))
    assert len(baked) == 3


def test_buffers_that_name_one_file_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "MAX_MESH_BYTES", 6000)
    (tmp_path / "a.bin").write_bytes(bytes(2000))
    buffers = [{"uri": "a.bin", "byteLength": 1}] * 4
    document = {"asset": {"version": "2.0"}, "buffers": buffers}
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(InputError, match="buffers: expected at most 6,000 bytes in all"):
        GltfFile(tmp_path / "a.gltf")


def test_not_gltf_at_all(tmp_path):
    for name, data, message in (
        ("a.gltf", b"[]", "expected a JSON object"),
        ("a.gltf", b'{"objects": {}}', "without the key asset"),
        ("a.gltf", b"\x00", "not JSON"),
        (
            "a.glb",
            glb_bytes({"asset": {"version": "2.0"}}, b"").replace(b"glTF\2", b"glTF\1"),
            "GLB",
        ),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            GltfFile(tmp_path / name)


def test_keys_that_are_not_read_may_hold_anything(triangle, tmp_path):
    triangle.document["extras"] = {"a": [1]}
    triangle.document["nodes"][0] |= {
        "extras": 3,
        "extensions": {"VENDOR_thing": None},
        "children": [],
    }
    assert load_scene(triangle.write(tmp_path / "a.glb")).object_names == ("corner", "light")
