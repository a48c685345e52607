"""Pictures for notebooks."""

import imageio.v3 as iio
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.images.show import show


@pytest.mark.parametrize(
    ("shape", "size"),
    [((4, 6, 3), (4, 6)), ((4, 6, 4), (4, 6)), ((3, 4, 6, 3), (4, 18)), ((2, 3, 4, 6, 3), (8, 18))],
)
def test_a_notebook_gets_a_png(shape, size):
    shown = show(np.random.default_rng(0).uniform(0, 2, shape))
    decoded = iio.imread(shown._repr_png_(), extension=".png")
    assert decoded.shape == (*size, 3) and np.array_equal(decoded, shown.pixels)
    assert repr(shown) == f"ShownImage({size[1]}x{size[0]} pixels)"


def test_scenes_go_down_and_views_to_the_right():
    images = np.zeros((2, 3, 1, 1, 3))
    images[1, 2] = 1
    assert show(images).pixels[..., 0].tolist() == [[0, 0, 0], [0, 0, 255]]


def test_tone_mapping():
    image = np.full((2, 2, 3), 100.0)
    assert (show(image).pixels == 255).all()
    assert show(image / 1000, "agx").pixels[0, 0, 0] > 50


@pytest.mark.parametrize("image", [np.zeros((4, 6)), np.zeros((4, 6, 2)), np.zeros((0, 6, 3)), 1])
def test_other_shapes_are_refused(image):
    with pytest.raises(InputError, match=r"image: expected .H, W, C. or"):
        show(image)


@pytest.mark.parametrize("image", ["scene.json", [[1], []], object()])
def test_what_is_no_array_is_refused(image):
    with pytest.raises(InputError, match="image: expected an array, found"):
        show(image)
