import numpy as np
import pytest

from rf_jax.images.comparison import comparison_image


def test_three_pictures_side_by_side():
    display = np.zeros((100, 100, 3), np.float32)
    truth = display.copy()
    display[0, 1], truth[0, 1] = [0.2, 0.5, 1.0], [0.3, 0.5, 0.0]
    picture = comparison_image(display, truth)
    assert picture.shape == (300, 900, 3) and picture.dtype == np.uint8
    pixel = picture[0:3, 3:6].reshape(-1, 3)
    assert (pixel == [51, 128, 255]).all()
    assert (picture[0:3, 303:306] == [76, 128, 0]).all()
    assert (picture[0:3, 603:606] == [102, 0, 255]).all()
    picture[0:3, [3, 4, 5, 303, 304, 305, 603, 604, 605]] = 0
    assert not picture.any()


@pytest.mark.parametrize(("side", "height"), [(64, 256), (255, 510), (256, 256), (512, 512)])
def test_small_pictures_are_enlarged(side, height):
    image = np.zeros((side, side, 3), np.float32)
    assert comparison_image(image, image).shape == (height, 3 * height, 3)
