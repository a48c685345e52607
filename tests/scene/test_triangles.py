import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rf_jax import geometry
from rf_jax.errors import InputError
from rf_jax.scene import build_scene, load_scene, parse_scene_description, triangles
from rf_jax.structs import DIFFUSE, FLAT_NORMAL

numbers = st.floats(-10, 10)
vectors = st.tuples(numbers, numbers, numbers)


@given(vectors, vectors, vectors)
def test_look_at_is_a_rotation_towards_the_target(position, target, up):
    try:
        camera = geometry.look_at(position, target, up)
    except InputError:
        return
    rotation = camera[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) > 0
    distance = np.linalg.norm(np.subtract(target, position))
    np.testing.assert_allclose(camera[:3, 3] - distance * camera[:3, 2], target, atol=1e-9)
    assert camera[:3, 1] @ up >= 0


def test_values_of_a_scene(scene_dict, folder):
    scene_dict["objects"]["box"]["material"] |= {"diffuse": [0.5, 2.0, 0.0], "emissive": [1, 2, 3]}
    scene = build_scene(parse_scene_description(scene_dict), folder)
    assert scene.valid_mask is None
    assert scene.triangles.shape == scene.vertex_normals.shape == (4, 3, 3)
    value = [127 / 255, 1, 0, 0.1, 0.1, 0.1, 0.3, *FLAT_NORMAL, 1, 2, 3]
    np.testing.assert_allclose(scene.texture, np.tile(value, (4, 1)), rtol=1e-6)
    for array in (scene.triangles, scene.vertex_normals, scene.texture, scene.camera_to_world):
        assert array.dtype == np.float32
    np.testing.assert_array_equal(scene.fov_degrees, np.float32([40]))


def test_random_diffuse_replaces_the_colour(scene_dict, folder):
    scene_dict["objects"]["box"]["material"]["rand_tri_diffuse_seed"] = 1
    scene = build_scene(parse_scene_description(scene_dict), folder)
    expected = np.random.RandomState(1).randint(0, 256, (4, 3)) / 255
    np.testing.assert_allclose(scene.texture[:, DIFFUSE], expected, rtol=1e-6)


def test_degenerate_triangles_are_dropped_and_counted(scene_dict, folder, caplog):
    with (folder / "a.obj").open("a") as file:
        file.write("v 5 5 5\nv 6 6 6\nv 7 7 7\nf 5 6 7\nf 5 5 6\n")
    with caplog.at_level(logging.WARNING):
        scene = build_scene(parse_scene_description(scene_dict), folder)
    assert len(scene.triangles) == 4
    assert "a.obj: dropped 2 degenerate triangles" in caplog.text


def _bad_mesh(scene_dict, folder):
    (folder / "a.obj").write_text("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n")


def _no_mesh(scene_dict, folder):
    (folder / "a.obj").unlink()


def _no_extent(scene_dict, folder):
    (folder / "a.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")


def _flat_camera(scene_dict, folder):
    scene_dict["cameras"][0]["up"] = [0, 3, 0]


def _no_distance(scene_dict, folder):
    scene_dict["cameras"][0]["look_at"] = scene_dict["cameras"][0]["position"]


def _too_large(scene_dict, folder):
    (folder / "a.obj").write_text("v 0 0 0\nv 1e30 0 0\nv 0 1e30 0\nf 1 2 3\n")
    scene_dict["objects"]["box"]["transform"] |= {"normalize": False, "scale": [1e30] * 3}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_bad_mesh, ["objects.box", "a.obj", "all 1 triangles are degenerate"]),
        (_no_mesh, ["objects.box", "a.obj: no such file"]),
        (_no_extent, ["objects.box", "a.obj", "same point"]),
        (_flat_camera, ["cameras[0]", "up", "parallel"]),
        (_no_distance, ["cameras[0]", "same point"]),
        (_too_large, ["triangles: expected finite values, found value inf"]),
    ],
)
def test_bad_scenes(scene_dict, folder, damage, words):
    damage(scene_dict, folder)
    path = folder / "scene.json"
    path.write_text(json.dumps(scene_dict))
    with pytest.raises(InputError) as error:
        load_scene(path)
    message = str(error.value)
    assert all(word in message for word in [f"{path}: ", *words]), message
    assert "\n" not in message


def test_a_mesh_repeated_without_end(scene_dict, folder, monkeypatch):
    monkeypatch.setattr(triangles, "MAX_TRIANGLES", 10)
    box = scene_dict["objects"]["box"]
    scene_dict["objects"] = {f"box{i}": box for i in range(100)}
    with pytest.raises(InputError, match=r"objects\.box2: expected at most 10 triangles"):
        build_scene(parse_scene_description(scene_dict), folder)
