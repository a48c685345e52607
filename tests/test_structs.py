"""Scenes in Python: their repr, their equality, the materials of their objects."""

import jax
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_scene
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, Scene, expand_texture, texel_mask


@pytest.fixture(scope="module")
def scene():
    return load_scene("cornell_box")


def test_repr_is_one_line(scene):
    expected = (
        "Scene(triangles [97, 3, 3], texture [97, 13], camera_to_world [1, 4, 4], 7 named objects)"
    )
    assert repr(scene) == expected
    assert "\n" not in repr(jax.tree.map(lambda _: object(), scene))


def test_equality_is_identity(scene):
    assert scene == scene and scene != scene.replace() and len({scene, scene}) == 1


def test_triangles_know_their_objects(scene):
    assert scene.objects.shape == (97,) and scene.object_names[2] == "left_wall"
    left = scene.triangles[scene.objects == 2]
    assert len(left) == 8 and (left[..., 0] == -0.5).all()
    (light,) = np.nonzero(scene.texture[:, EMISSION].any(axis=1))[0]
    assert scene.object_names[scene.objects[light]] == "light"


def test_one_object_gets_another_material(scene):
    before = scene.texture.copy()
    changed = scene.with_material("left_wall", diffuse=np.float32([0.3, 2, 0]), roughness=0.5)
    wall = scene.objects == scene.object_names.index("left_wall")
    assert np.array_equal(scene.texture, before)
    assert np.array_equal(changed.texture[~wall], before[~wall])
    np.testing.assert_allclose(changed.texture[wall, DIFFUSE], [[76 / 255, 1, 0]] * 8, rtol=1e-6)
    assert (changed.texture[wall, ROUGHNESS] == 0.5).all()
    assert np.array_equal(changed.texture[wall, EMISSION], before[wall, EMISSION])
    assert changed.texture.dtype == np.float32


def test_a_material_equals_that_of_the_same_scene_file(scene, tmp_path):
    """As if the number stood in the JSON file."""
    gray = scene.with_material("left_wall", diffuse=0.5).with_material("right_wall", diffuse=0.5)
    assert np.array_equal(gray.texture[16:32, DIFFUSE], scene.texture[:16, DIFFUSE])


def test_materials_of_patches_and_of_batches(scene):
    plain = scene.with_material("floor", emissive=(1, 2, 3))
    patches = scene.replace(texture=expand_texture(scene.texture, 4))
    changed = patches.with_material("floor", emissive=(1, 2, 3)).texture
    assert np.array_equal(changed, expand_texture(plain.texture, 4))
    assert not changed[..., ~texel_mask(4)].any()
    batch = jax.tree.map(lambda x: np.stack([x, x]), scene)
    changed = batch.with_material("floor", emissive=(1, 2, 3))
    assert isinstance(changed, Scene) and np.array_equal(changed.texture[1], plain.texture)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("wall", {"diffuse": 1}, "no object named 'wall' .* objects: floor, back_wall"),
        ("floor", {"diffuse": (1, 2)}, "floor.diffuse: expected a list of 3 numbers"),
        ("floor", {"emissive": -1}, "floor.emissive.*expected a number >= 0, found -1"),
        ("floor", {"roughness": np.float32(2)}, "floor.roughness: expected a number in .0, 1."),
    ],
)
def test_bad_materials(scene, name, values, message):
    with pytest.raises(InputError, match=message):
        scene.with_material(name, **values)


def test_scenes_without_names(scene):
    with pytest.raises(InputError, match=r"no object named 'floor'.*files in HDF5 hold no names"):
        scene.replace(objects=None, object_names=()).with_material("floor", diffuse=1)
