"""Scenes made in Python, and that scene files are placed by the same code."""

import json

import numpy as np
import pytest
import trimesh

import rf_jax
from rf_jax.errors import InputError
from rf_jax.scene import load_scene, load_scene_description
from rf_jax.scene.builder import SceneBuilder
from rf_jax.scene.check import measure, scene_warnings
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS
from rf_jax.trained_on import PUBLISHED

CUBE = trimesh.creation.box()


def arrays_of(scene):
    return {name: value for name, value in vars(scene).items() if value is not None}


@pytest.mark.parametrize("seed", [None, 3])
def test_a_scene_file_and_the_builder_place_alike(scene_dict, folder, seed):
    thing = scene_dict["objects"]["box"]
    thing["transform"] |= {"rotation": [10, 20, 30], "scale": [1, -0.5, 1], "normalize": True}
    thing["material"] |= {"smooth_shading": True, "rand_tri_diffuse_seed": seed}
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    loaded = load_scene(folder / "scene.json")
    camera = scene_dict["cameras"][0]
    built = SceneBuilder().add_mesh(folder / "a.obj", thing["material"], thing["transform"], "box")
    built = built.add_camera(**camera).build()
    for name, array in arrays_of(loaded).items():
        assert np.array_equal(array, getattr(built, name)), name
    # Parsed descriptions hold the same dataclasses
    parsed = load_scene_description(folder / "scene.json").objects["box"]
    again = SceneBuilder().add_mesh(folder / "a.obj", parsed.material, parsed.transform)
    assert np.array_equal(again.add_camera(**camera).build().triangles, loaded.triangles)


@pytest.mark.parametrize(
    "mesh",
    [CUBE, (CUBE.vertices, CUBE.faces), (CUBE.vertices.tolist(), CUBE.faces), CUBE.triangles],
    ids=["trimesh", "arrays", "lists", "triangles"],
)
def test_meshes_of_every_kind(mesh):
    scene = SceneBuilder().add_mesh(mesh).add_camera((0, -2, 0)).build()
    assert np.array_equal(scene.triangles, CUBE.triangles.astype(np.float32))
    assert scene.object_names == ("mesh",) and not scene.objects.any()
    assert (scene.texture[:, ROUGHNESS] == 1).all() and not scene.texture[:, EMISSION].any()


def test_the_callers_mesh_stays(tmp_path):
    mesh = trimesh.creation.box()
    SceneBuilder().add_mesh(mesh, {"smooth_shading": True}, {"scale": 2, "normalize": True})
    assert np.array_equal(mesh.vertices, CUBE.vertices) and np.array_equal(mesh.faces, CUBE.faces)


def test_one_number_stands_for_three():
    values = {"diffuse": np.float32(0.25), "emissive": np.array([1, 2, 3])}
    scene = SceneBuilder().add_mesh(CUBE, values, {"scale": 0.5}).add_camera((0, -2, 0)).build()
    assert np.abs(scene.triangles).max() == 0.25
    np.testing.assert_allclose(scene.texture[:, DIFFUSE], 63 / 255, rtol=1e-6)
    assert (scene.texture[:, EMISSION] == [1, 2, 3]).all()


def test_names_of_objects(folder):
    builder = SceneBuilder().add_mesh(CUBE).add_mesh(folder / "a.obj").add_mesh(CUBE, name="box")
    builder.add_mesh(CUBE).add_mesh(CUBE).add_light((0, 0, 2.4)).add_light((0, 1, 2.2))
    scene = builder.add_camera((0, -2, 0)).build()
    assert scene.object_names == ("mesh", "a", "box", "mesh_2", "mesh_3", "light", "light_2")
    assert np.bincount(scene.objects).tolist() == [12, 4, 12, 12, 12, 1, 1]
    changed = scene.with_material("box", diffuse=(1, 0, 0))
    assert (changed.texture[scene.objects == 2, DIFFUSE] == [1, 0, 0]).all()


@pytest.mark.parametrize("position", [(0, 0, 2.4), (0.5, -0.8, 2.2), (0, -2.3, 0)])
def test_a_light_faces_its_target_and_is_like_the_published_ones(position):
    builder = SceneBuilder().add_mesh(CUBE).add_light(position).add_camera((0, -2, 0))
    scene = builder.build()
    assert not scene_warnings(scene, PUBLISHED)
    assert measure(scene)["light_scale"] == pytest.approx([2.3], rel=1e-5)
    np.testing.assert_allclose(scene.triangles[-1].mean(axis=0), position, atol=1e-6)
    normal = scene.vertex_normals[-1, 0]
    np.testing.assert_allclose(normal, -np.array(position) / np.linalg.norm(position), atol=1e-6)


def test_it_renders():
    scene = rf_jax.SceneBuilder().add_mesh(CUBE, transform={"scale": 0.3}).add_light((0, 0, 2.4))
    scene = scene.add_camera((0, -2, 0.2)).build()
    assert rf_jax.Renderer.from_pretrained().render(scene).shape == (1, 1, 64, 64, 3)


CALLS = [
    (lambda b: b.add_mesh("none.obj"), "objects.none: none.obj: no such file"),
    (lambda b: b.add_mesh(3), "objects.mesh: mesh: expected a path, .* found int"),
    (lambda b: b.add_mesh((CUBE.vertices, [[0, 1]])), "mesh: expected a path"),
    (lambda b: b.add_mesh((CUBE.vertices, [[0, 1, 8]])), "mesh: face indices out of range"),
    (
        lambda b: b.add_mesh(np.full((2, 3, 3), np.nan)),
        "mesh: expected vertices of finite float32, found 6",
    ),
    (lambda b: b.add_mesh(np.zeros((2, 3, 3))), "mesh: all 2 triangles are degenerate"),
    (lambda b: b.add_mesh(CUBE, {"colour": 1}), "objects.mesh: material.colour: unknown key"),
    (lambda b: b.add_mesh(CUBE, {"diffuse": (1, 2)}), "material.diffuse: expected a list of 3"),
    (lambda b: b.add_mesh(CUBE, {"roughness": 2}), "material.roughness: expected a number in"),
    (lambda b: b.add_mesh(CUBE, 3), "material: expected a Material or a dictionary .* found int"),
    (lambda b: b.add_mesh(CUBE, transform={"scale": "1"}), "transform.scale: expected a list of 3"),
    (lambda b: b.add_mesh(CUBE, name="x").add_mesh(CUBE, name="x"), "name: expected .* found 'x'"),
    (lambda b: b.add_mesh(CUBE, remesh_faces=1), "remesh_faces: expected an integer >= 4"),
    (lambda b: b.add_light((0, 0, 0)), "objects.light: .* same point"),
    (lambda b: b.add_light((0, 0, 2), -1), "objects.light: material.emissive"),
    (lambda b: b.add_camera((0, 0, 2)), r"cameras\[0\]: camera up .* parallel"),
    (lambda b: b.add_camera((0, -2, 0), fov=200), r"cameras\[0\].fov: expected a number in"),
    (lambda b: b.add_camera((0, -2, 0)).build(), "objects: expected at least one, found none"),
    (lambda b: b.add_mesh(CUBE).build(), "cameras: expected at least one, found none"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[message for _, message in CALLS])
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(InputError, match=message) as error:
        call(SceneBuilder())
    assert "\n" not in str(error.value)
