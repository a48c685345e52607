"""Whole glTF files, as trimesh, pygltflib and Blender wrote them."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pygltflib
import pytest
import trimesh

from rf_jax.geometry import project_points, world_to_camera_points
from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.gltf import load as load_module
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR
from tests.scene.gltf.conftest import CORNER

BLENDER = Path(__file__).parents[2] / "data" / "gltf" / "blender.glb"
Y_UP = trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])


def rows_of(scene, name):
    """The rows of an object's triangles."""
    return np.asarray(scene.objects) == scene.object_names.index(name)


def sorted_rows(array):
    """The rows of [N, ...] in an order that depends on them alone."""
    flat = np.round(np.asarray(array, np.float64), 4).reshape(len(array), -1)
    return flat[np.lexsort(flat.T)]


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_a_file_by_trimesh(tmp_path, suffix):
    """Two meshes in a tree of transforms; trimesh says where their triangles are."""
    material = trimesh.visual.material.PBRMaterial(
        "red", baseColorFactor=[255, 51, 0, 255], metallicFactor=0.0, roughnessFactor=0.25
    )
    ball = trimesh.creation.icosphere(1)
    ball.visual = trimesh.visual.TextureVisuals(uv=ball.vertices[:, :2], material=material)
    scene = trimesh.Scene()
    random = trimesh.transformations.random_rotation_matrix
    scene.add_geometry(trimesh.creation.box(), "box", "box", transform=random())
    scene.add_geometry(ball, "ball", "ball", parent_node_name="box", transform=random())
    path = tmp_path / f"a.{suffix}"
    if suffix == "glb":
        scene.export(path)
    else:
        for name, data in trimesh.exchange.gltf.export_gltf(scene).items():
            (tmp_path / ("a.gltf" if name == "model.gltf" else name)).write_bytes(data)
    loaded = load_scene(path)
    assert set(loaded.object_names) == {"box", "ball", "light"}
    whole = scene.to_mesh()
    whole.apply_transform(Y_UP)
    ours = loaded.triangles[~rows_of(loaded, "light")]
    np.testing.assert_allclose(sorted_rows(ours), sorted_rows(whole.triangles), atol=2e-4)
    values = loaded.texture[rows_of(loaded, "ball")]
    np.testing.assert_allclose(values[:, ROUGHNESS], 0.25, atol=1e-6)
    np.testing.assert_allclose(values[:, DIFFUSE], [[0.914, 0.183, 0]] * len(values), atol=0.01)


def test_a_file_by_pygltflib(tmp_path):
    data = np.float32(CORNER).tobytes()
    primitive = pygltflib.Primitive(attributes=pygltflib.Attributes(POSITION=0), material=0)
    pbr = pygltflib.PbrMetallicRoughness(baseColorFactor=[0.2, 0.4, 0.6, 1], metallicFactor=1)
    material = pygltflib.Material(
        name="steel", pbrMetallicRoughness=pbr, emissiveFactor=[0.5, 0, 0]
    )
    perspective = pygltflib.Perspective(yfov=0.7, znear=0.1)
    file = pygltflib.GLTF2(
        scene=0,
        scenes=[pygltflib.Scene(nodes=[0, 1])],
        nodes=[
            pygltflib.Node(name="plate", mesh=0, translation=[0, 0, -3]),
            pygltflib.Node(camera=0),
        ],
        meshes=[pygltflib.Mesh(primitives=[primitive])],
        cameras=[pygltflib.Camera(type="perspective", perspective=perspective)],
        materials=[material],
        accessors=[pygltflib.Accessor(bufferView=0, componentType=5126, count=3, type="VEC3")],
        bufferViews=[pygltflib.BufferView(buffer=0, byteLength=len(data))],
        buffers=[pygltflib.Buffer(byteLength=len(data))],
    )
    file.set_binary_blob(data)
    file.save_binary(tmp_path / "a.glb")
    scene, report = load_gltf(tmp_path / "a.glb")
    assert scene.object_names == ("plate",)
    np.testing.assert_array_equal(scene.triangles, [[[0, 3, 0], [1, 3, 0], [0, 3, 2]]])
    np.testing.assert_array_equal(scene.texture[0, EMISSION], [0.5, 0, 0])
    metal = (20 * np.array([0.2, 0.4, 0.6]) + 1) / 21
    np.testing.assert_allclose(scene.texture[0, SPECULAR], metal, rtol=1e-6)
    assert ("1 cameras", "views 0; square, as high as the camera's image") in report.rows()


@pytest.fixture(scope="module")
def blender():
    """The scene of a file by Blender (see blender_scene.py), and what Blender says of it."""
    return load_scene(BLENDER), json.loads(BLENDER.with_suffix(".json").read_text())


def test_blenders_objects_are_where_blender_had_them(blender):
    scene, facts = blender
    assert set(scene.object_names) == {*facts["meshes"], *facts["lights"], "block/red"} - {
        "block"
    } | {"block/gold"}
    for name, bounds in facts["meshes"].items():
        names = ("block/red", "block/gold") if name == "block" else (name,)
        corners = np.concatenate([scene.triangles[rows_of(scene, n)] for n in names])
        np.testing.assert_allclose(corners.min(axis=(0, 1)), bounds["low"], atol=1e-4)
        np.testing.assert_allclose(corners.max(axis=(0, 1)), bounds["high"], atol=1e-4)
    for name in ("bulb", "spot"):
        middle = scene.triangles[rows_of(scene, name)].mean(axis=(0, 1))
        np.testing.assert_allclose(middle, facts["lights"][name], atol=1e-4)


def test_blenders_triangles_face_outwards(blender):
    """Also those of the block, which a negative scale mirrors."""
    scene, _ = blender
    for names in (("ball",), ("table",), ("block/red", "block/gold")):
        rows = np.any([rows_of(scene, name) for name in names], axis=0)
        triangles, normals = scene.triangles[rows], scene.vertex_normals[rows]
        outwards = triangles.mean(axis=1) - triangles.mean(axis=(0, 1))
        faces = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        assert ((faces * outwards).sum(axis=-1) > 0).all()
        assert ((faces[:, None] * normals).sum(axis=-1) > 0).all()
    flat = scene.vertex_normals[rows_of(scene, "table")]
    np.testing.assert_allclose(flat, flat[:, :1].repeat(3, axis=1), atol=1e-5)
    smooth = scene.vertex_normals[rows_of(scene, "ball")]
    assert np.ptp(smooth, axis=1).max() > 0.1


def test_blenders_cameras(blender):
    scene, facts = blender
    _, report = load_gltf(BLENDER)
    assert "views 0 side, 1 front; square" in dict(report.rows())["2 cameras"]
    for view, name in enumerate(("side", "front")):
        camera, pose = facts["cameras"][name], scene.camera_to_world[view]
        np.testing.assert_allclose(pose[:3, 3], camera["position"], atol=1e-4)
        np.testing.assert_allclose(pose[:3, :3], camera["axes"], atol=1e-4)
        assert scene.fov_degrees[view] == pytest.approx(camera["fov"], abs=1e-3)


def test_blenders_materials_and_lights(blender):
    scene, _ = blender
    fresnel = 0.04 + 0.96 / 21

    def values(name):
        return np.asarray(scene.texture[rows_of(scene, name)], np.float64)

    np.testing.assert_allclose(values("table")[:, ROUGHNESS], 0.4, atol=1e-6)
    np.testing.assert_allclose(values("table")[:, SPECULAR], fresnel, atol=1e-4)
    red = (1 - fresnel) * np.array([0.6, 0.06, 0.05])
    np.testing.assert_allclose(values("table")[:, DIFFUSE], [red] * 12, atol=1 / 255)
    # Every other of eight columns is black: the halves beside the diagonal are 7 / 16 and 9 / 16
    columns = np.sort(values("picture")[:, DIFFUSE], axis=0) / (1 - fresnel)
    np.testing.assert_allclose(columns, [[7 / 16] * 3, [9 / 16] * 3], atol=0.01)
    assert (values("ball")[:, DIFFUSE] == 0).all()
    np.testing.assert_allclose(values("lamp_shade")[:, EMISSION], [[20, 10, 5]] * 2, rtol=1e-5)
    for name, power in (("bulb", 100), ("spot", None)):
        (corners,) = scene.triangles[rows_of(scene, name)].astype(np.float64)
        area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0])) / 2
        if power is not None:
            emitted = 2 * np.pi * area * values(name)[0, EMISSION]
            np.testing.assert_allclose(emitted, power, rtol=1e-4)


def test_h5_files_hold_the_same_scene(blender, tmp_path):
    scene, _ = blender
    save_h5(scene, tmp_path / "a.h5")
    loaded = load_scene(tmp_path / "a.h5")
    np.testing.assert_array_equal(loaded.triangles, scene.triangles)
    np.testing.assert_allclose(loaded.texture, scene.texture, rtol=1e-3, atol=1e-7)


def test_objects_have_distinct_names_and_can_be_changed(gltf, tmp_path):
    """The name of the node, then of the mesh, then a number; with the material, or its number."""
    named = gltf.add("meshes", name="plate", primitives=[gltf.triangles(CORNER)])
    gltf.node(mesh=named)
    gltf.node(mesh=named)
    gltf.node(primitives=[gltf.triangles(CORNER)])
    several = [
        gltf.triangles(CORNER, {"name": "red"}),
        gltf.triangles(CORNER),
        gltf.triangles(CORNER, {}),
    ]
    gltf.node(name="box", primitives=several)
    scene = load_scene(gltf.write(tmp_path / "a.glb"))
    expected = ("plate", "plate_2", "mesh_1", "box/red", "box/1", "box/material_1", "light")
    assert scene.object_names == expected
    changed = scene.with_material("box/red", roughness=0.5)
    np.testing.assert_array_equal(changed.texture[:, 6] == 0.5, rows_of(scene, "box/red"))


def test_a_name_of_many_objects_is_looked_up_a_few_times_each():
    class Objects(load_module._Objects):
        lookups = 0

        def __contains__(self, name):
            self.lookups += 1
            return super().__contains__(name)

    objects = Objects()
    objects["a_3"] = None
    for _ in range(1000):
        objects[objects.new_name("a")] = None
    assert list(objects)[:5] == ["a_3", "a", "a_2", "a_4", "a_5"]
    assert objects.lookups < 3000


@pytest.mark.parametrize("size", [[1, 1, 1], [30, 1, 2], [0.01, 0.02, 0.01]])
def test_a_camera_that_is_missing_sees_everything(gltf, tmp_path, size):
    box = trimesh.creation.box(size)
    gltf.node(
        translation=[3, 4, 5],
        primitives=[gltf.triangles(box.vertices, indices=box.faces.ravel())],
    )
    scene, report = load_gltf(gltf.write(tmp_path / "a.glb"))
    assert ("no camera", "one in front that sees everything") in report.rows()
    assert 30 <= scene.fov_degrees[0] <= 60
    points = jnp.asarray(scene.triangles[rows_of(scene, "mesh_0")].reshape(-1, 3))
    seen = world_to_camera_points(points, jnp.asarray(scene.camera_to_world[0]))
    assert (seen[:, 2] < 0).all()
    on_image = project_points(seen, jnp.asarray(scene.fov_degrees[0]))[:, :2]
    assert 0.4 < jnp.abs(on_image).max() <= 1 + 1e-5


def test_what_is_dropped_is_said(triangle, tmp_path):
    triangle.document |= {
        "animations": [{}, {"channels": []}],
        "extensionsUsed": ["KHR_materials_clearcoat", "KHR_lights_punctual"],
        "cameras": [{"type": "orthographic"}],
    }
    triangle.node(camera=0)
    triangle.add("textures", extensions={"KHR_texture_basisu": {"source": 0}})
    triangle.add("materials", alphaMode="BLEND", normalTexture={"index": 0})
    triangle.node(primitives=[triangle.triangles(CORNER, mode=0)])
    _, report = load_gltf(triangle.write(tmp_path / "a.glb"))
    assert [what for what, _ in report.dropped] == [
        "2 animations",
        "1 primitives of points or lines",
        "1 textures without a PNG, JPEG or WebP image",
        "1 normal maps",
        "1 transparent materials",
        "1 orthographic cameras",
        "KHR_materials_clearcoat",
    ]
    assert report.lines()[-1].endswith("->  dropped: extensions that are not read")


def test_degenerate_objects_are_left_out(triangle, tmp_path, caplog):
    triangle.node(name="line", primitives=[triangle.triangles(np.zeros((3, 3)))])
    assert load_scene(triangle.write(tmp_path / "a.glb")).object_names == ("corner", "light")
    assert "line: left out, all its triangles are degenerate" in caplog.text
