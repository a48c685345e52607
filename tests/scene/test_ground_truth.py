import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.images.files import save_exr
from rf_jax.scene import save_h5
from rf_jax.scene.ground_truth import ground_truth_path, load_ground_truth


@pytest.fixture
def exrs(tmp_path):
    """Three views of `tmp_path / "a.json"`."""
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    for view, image in enumerate(images):
        save_exr(tmp_path / f"a_truth_view_{view}.exr", image)
    return images


def test_where_it_lies(tmp_path):
    beside = ground_truth_path("scenes/a.json", 2)
    assert str(beside) == "scenes/a_truth_view_2.exr"
    assert ground_truth_path("scenes/a.json", 2, tmp_path) == tmp_path / beside.name


def test_exrs_beside_a_scene(tmp_path, exrs):
    loaded = load_ground_truth(tmp_path / "a.json", [2, 0])
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, exrs[[2, 0]])


def test_all_views_or_none(tmp_path, exrs):
    assert load_ground_truth(tmp_path / "a.json", [0, 3]) is None
    assert load_ground_truth(tmp_path / "b.json", [0]) is None


def test_images_of_a_training_file(tmp_path, scene):
    images = np.random.default_rng(0).random((2, 8, 8, 4)).astype(np.float16)
    save_h5(scene, tmp_path / "b.h5", images=images)
    loaded = load_ground_truth(tmp_path / "b.h5", [1])
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, images[1:, ..., :3])
    save_h5(scene, tmp_path / "without.h5")
    assert load_ground_truth(tmp_path / "without.h5", [0]) is None


def test_exrs_go_before_images(tmp_path, scene, exrs):
    save_h5(scene, tmp_path / "a.h5", images=np.zeros((2, 8, 8, 4), np.float16))
    np.testing.assert_array_equal(load_ground_truth(tmp_path / "a.h5", [1]), exrs[1:2])


@pytest.mark.parametrize("shape", [(4, 4, 3), (8, 4, 3)])
def test_other_sizes(tmp_path, exrs, shape):
    save_exr(tmp_path / "a_truth_view_1.exr", np.zeros(shape, np.float32))
    message = rf"a_truth_view_1\.exr: expected 8x8 pixels, found 4x{shape[0]}"
    with pytest.raises(InputError, match=message):
        load_ground_truth(tmp_path / "a.json", [0, 1])
