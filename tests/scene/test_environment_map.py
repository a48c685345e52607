"""Environment maps of RenderFormer V2."""

from pathlib import Path

import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.geometry import environment_directions
from rf_jax.images.files import save_exr
from rf_jax.scene.environment_map import (
    environment_images,
    load_environment_map,
    rotate_environment_map,
)

DATA = Path(__file__).parents[1] / "data" / "goldens_v2" / "data"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DATA / "env_map.npz"))


def assert_close(found, expected):
    error = np.linalg.norm(np.moveaxis(found, -1, 0) - expected) / np.linalg.norm(expected)
    assert error < 1e-5


def test_golden(golden):
    radiance = rotate_environment_map(golden["env_map_hwc"], golden["rotation_degrees"])
    radiance = radiance * golden["strength"]
    images = environment_images(radiance)
    assert_close(radiance, golden["processed_chw"])
    assert_close(images.ldr, golden["vae_input_ldr"])
    assert_close(images.hdr, golden["vae_input_hdr"])
    assert images.strength == pytest.approx(golden["lighting_strength"], rel=1e-5)
    height, width, _ = golden["env_map_hwc"].shape
    directions = environment_directions(height, width)
    assert_close(directions, np.moveaxis(golden["directions"], -1, 0))


def test_a_quarter_turn_about_z_moves_columns():
    radiance = np.random.default_rng(0).uniform(size=(8, 16, 3)).astype(np.float32)
    turned = rotate_environment_map(radiance, (0, 0, 90))
    # The new +x, in the middle, is the old +y, a quarter of the width to its left.
    np.testing.assert_allclose(turned[:, 8], radiance[:, 4], atol=1e-5)


def test_a_black_map():
    images = environment_images(np.zeros((4, 8, 3), np.float32))
    assert images.strength == 0
    assert (images.ldr == -1).all() and (images.hdr == -1).all()


def test_reading(tmp_path):
    radiance = np.random.default_rng(0).uniform(0, 9, (256, 512, 3)).astype(np.float32)
    save_exr(tmp_path / "map.exr", radiance)
    np.testing.assert_array_equal(load_environment_map(tmp_path / "map.exr"), radiance)
    doubled = load_environment_map(tmp_path / "map.exr", strength=2)
    np.testing.assert_array_equal(doubled, 2 * radiance)


@pytest.mark.parametrize(
    ("radiance", "message"),
    [
        (np.ones((128, 256, 3), np.float32), "512x256 pixels"),
        (np.full((256, 512, 3), -1, np.float32), "finite radiance >= 0, found 393216"),
    ],
)
def test_other_maps_are_refused(tmp_path, radiance, message):
    save_exr(tmp_path / "map.exr", radiance)
    with pytest.raises(InputError, match=message):
        load_environment_map(tmp_path / "map.exr")


def test_a_strength_beyond_float32_is_refused_with_the_file(tmp_path):
    save_exr(tmp_path / "map.exr", np.full((256, 512, 3), 100, np.float32))
    with pytest.raises(InputError, match=r"map\.exr, times its strength of 1e\+38: .*finite"):
        load_environment_map(tmp_path / "map.exr", strength=1e38)
