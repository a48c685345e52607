"""--fit: scenes become like those of the training data, and their images change by one factor."""

import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_scene
from rf_jax.scene.builder import SceneBuilder
from rf_jax.scene.check import measure, scene_warnings
from rf_jax.scene.fit import apply_fit, find_fit
from rf_jax.structs import EMISSION
from rf_jax.trained_on import PUBLISHED, TrainedOn


@pytest.fixture
def scene():
    return load_scene("cornell_box")


def moved(scene, scale, offset, emission=1.0):
    """The scene elsewhere, of another size, and brighter."""
    cameras, texture = scene.camera_to_world.copy(), scene.texture.copy()
    cameras[:, :3, 3] = scale * cameras[:, :3, 3] + offset
    texture[:, EMISSION] *= emission
    triangles = scale * scene.triangles + np.float32(offset)
    return scene.replace(triangles=triangles, camera_to_world=cameras, texture=texture)


def fitted(scene, trained_on=PUBLISHED):
    return apply_fit(scene, find_fit(scene, trained_on))


def test_fitting_twice_changes_nothing(scene):
    fit = find_fit(fitted(moved(scene, 3, [1, 2, 3], 0.01)), PUBLISHED)
    np.testing.assert_allclose([fit.scale, fit.emission], 1, rtol=1e-5)
    np.testing.assert_allclose(fit.offset, 0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.001, 0.3, 700])
@pytest.mark.parametrize("emission", [1e-3, 50])
def test_the_size_and_brightness_of_the_source_do_not_matter(scene, scale, emission):
    one, other = fitted(scene), fitted(moved(scene, scale, [scale, -5 * scale, 0], emission))
    np.testing.assert_allclose(other.triangles, one.triangles, atol=1e-4)
    np.testing.assert_allclose(other.camera_to_world, one.camera_to_world, atol=1e-4)
    np.testing.assert_allclose(other.texture, one.texture, rtol=1e-4)
    assert one.object_names == scene.object_names


def test_fitted_coordinates_fill_the_cube(scene):
    result = fitted(moved(scene, 9, [0, 0, 4]))
    values = measure(result)
    assert values["extent"].max() == pytest.approx(0.5, abs=1e-5)
    assert "extent" not in scene_warnings(result, PUBLISHED)


def test_a_scene_as_in_the_training_data_stays():
    """A cube of side 1, and a light in the middle of all ranges."""
    scene = (
        SceneBuilder()
        .add_mesh(cube(), name="cube")
        .add_light((0, 0, 2.4), emissive=3750, scale=2.25)
        .add_camera((0, -2, 0))
        .build()
    )
    fit = find_fit(scene, PUBLISHED)
    np.testing.assert_allclose([fit.scale, fit.emission], 1, rtol=1e-5)


def test_lights_within_the_scene_count_as_near_as_its_sides():
    """Ten times the radiance on a tenth of the area, anywhere inside, is as bright."""

    def factor(position, emissive, scale):
        light = dict(emissive=emissive, scale=scale, look_at=(1, 1, 1))
        builder = SceneBuilder().add_mesh(cube()).add_light(position, **light)
        return find_fit(builder.add_camera((0, -2, 0)).build(), PUBLISHED).emission

    one = factor((0, 0, 0.3), 10, 1)
    assert factor((0.1, 0, 0), 1000, 0.1) == pytest.approx(one, rel=1e-5)
    # A light of scale 2 at 2.1 that gives the same irradiance
    assert one == pytest.approx(3750 / (10 * (1 / 2) ** 2 * (2.1 / 0.5) ** 2), rel=1e-5)


@pytest.mark.parametrize("position", [(0, 0, 2.15), (1, -1, 2.2)])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_lights_within_the_ranges_get_the_emission_of_the_ranges(position, scale):
    builder = SceneBuilder().add_mesh(cube()).add_light(position, emissive=3, scale=scale)
    scene = builder.add_light((1, 1, 2), emissive=5).add_camera((0, -1.8, 0)).build()
    result = fitted(scene)
    assert scene_warnings(result, PUBLISHED) == {}
    assert result.texture[:, EMISSION].sum(axis=0) == pytest.approx([3750] * 3)


def test_ranges_of_the_weights_count(scene):
    weights = TrainedOn(resolution=64, extent=2.0)
    assert np.abs(fitted(scene, weights).triangles[:-1]).max() == pytest.approx(2, abs=1e-5)


def test_dark_scenes_are_only_moved(scene):
    dark = scene.replace(texture=scene.texture * (np.arange(13) < 10))
    assert find_fit(dark, PUBLISHED).emission == 1


def test_a_point_cannot_be_fitted(scene):
    point = scene.replace(triangles=np.zeros_like(scene.triangles))
    with pytest.raises(InputError, match="all its triangles are at the same point"):
        find_fit(point, PUBLISHED)


def cube():
    import trimesh

    return trimesh.creation.box()
