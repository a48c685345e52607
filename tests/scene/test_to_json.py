"""Scenes written as JSON and OBJ files are the same scenes."""

import numpy as np
import pytest
import trimesh

from rf_jax.errors import InputError
from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.builder import SceneBuilder
from rf_jax.scene.to_json import save_json
from rf_jax.structs import DIFFUSE, EMISSION


def same(one, other, normals=1e-5):
    assert one.object_names == other.object_names
    np.testing.assert_array_equal(one.triangles, other.triangles)
    np.testing.assert_array_equal(one.objects, other.objects)
    np.testing.assert_allclose(one.texture, other.texture, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(one.vertex_normals, other.vertex_normals, atol=normals)
    np.testing.assert_allclose(one.camera_to_world, other.camera_to_world, atol=1e-6)
    np.testing.assert_allclose(one.fov_degrees, other.fov_degrees)


@pytest.mark.parametrize("name", ["cornell_box", "blue_room"])
def test_a_bundled_scene(tmp_path, name):
    scene = load_scene(name)
    save_json(scene, tmp_path / "new" / "room.json")
    same(load_scene(tmp_path / "new" / "room.json"), scene)


@pytest.mark.parametrize("level", range(0, 256, 5))
def test_diffuse_keeps_its_eight_bits(tmp_path, level):
    material = {"diffuse": (level + 0.5) / 255, "specular": 0.1, "roughness": 0.3}
    builder = SceneBuilder().add_mesh(trimesh.creation.box(), material, name="a/b: \u00e9\n")
    scene = builder.add_camera((0, -2, 0)).build()
    np.testing.assert_allclose(scene.texture[:, DIFFUSE] * 255, level, atol=1e-4)
    save_json(scene, tmp_path / "a.json")
    same(load_scene(tmp_path / "a.json"), scene)


def test_smooth_objects_stay_smooth(tmp_path):
    material = {"diffuse": 0.5, "smooth_shading": True}
    builder = SceneBuilder().add_mesh(trimesh.creation.icosphere(2), material)
    scene = builder.add_camera((0, -4, 0)).build()
    description = save_json(scene, tmp_path / "a.json")
    assert description.objects["mesh"].material.smooth_shading
    loaded = load_scene(tmp_path / "a.json")
    normals = {tuple(x) for x in np.round(loaded.vertex_normals, 3).reshape(-1, 3)}
    assert normals == {tuple(x) for x in np.round(scene.vertex_normals, 3).reshape(-1, 3)}


def test_textures_become_their_mean(tmp_path, caplog):
    triangles = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 1], [3, 0, 1], [0, 1, 1]]])
    scene = SceneBuilder().add_mesh(triangles.astype(float)).add_camera((0, -2, 0)).build()
    texture = scene.texture.copy()
    texture[0, EMISSION], texture[1, EMISSION] = 8, 4
    save_json(scene.replace(texture=texture), tmp_path / "a.json")
    assert "the mean of their materials is written for: mesh" in caplog.text
    np.testing.assert_allclose(load_scene(tmp_path / "a.json").texture[:, EMISSION], 5)


def test_scenes_without_names_are_refused(tmp_path):
    save_h5(load_scene("cornell_box"), tmp_path / "a.h5")
    with pytest.raises(InputError, match="expected a scene whose objects have names"):
        save_json(load_scene(tmp_path / "a.h5"), tmp_path / "a.json")
