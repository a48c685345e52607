import numpy as np
import pytest

from rf_jax.images.comparison import TITLE_HEIGHT, comparison_image, with_titles


def test_three_pictures_side_by_side():
    display = np.full((100, 100, 3), 0.2, np.float32)
    truth = display.copy()
    display[0, 1], truth[0, 1] = [0.2, 0.5, 1.0], [0.3, 0.5, 0.0]
    picture = comparison_image(display, truth)
    assert picture.shape == (300, 900, 3) and picture.dtype == np.uint8
    assert (picture[0:3, 3:6] == [51, 128, 255]).all()
    assert (picture[0:3, 303:306] == [76, 128, 0]).all()
    picture[0:3, [3, 4, 5, 303, 304, 305]] = 51
    assert (picture[:, :600] == 51).all()
    error = picture[:, 600:].astype(int).sum(-1)
    assert error[0:3, 3:6].min() == error.max() > 150
    assert error[150:].max() < 10  # far from the difference, nothing is seen


def test_more_error_is_brighter():
    truth = np.full((64, 64, 3), 0.5, np.float32)
    means = [comparison_image(truth + by, truth)[:, 512:].mean() for by in (0, 0.05, 0.2, 0.5)]
    assert means == sorted(means) and means[0] < 10 and means[-1] - means[-2] > 10


@pytest.mark.parametrize(("side", "height"), [(64, 256), (255, 510), (256, 256), (512, 512)])
def test_small_pictures_are_enlarged(side, height):
    image = np.zeros((side, side, 3), np.float32)
    assert comparison_image(image, image).shape == (height, 3 * height, 3)


def test_titles_stand_above_the_picture():
    picture = np.zeros((256, 768, 3), np.uint8)
    titled = with_titles(picture)
    assert np.array_equal(titled[TITLE_HEIGHT:], picture)
    bar = titled[:TITLE_HEIGHT]
    assert (bar[[0, -1]] == 255).all(), "the text touches the border"
    for column in np.split(bar, 3, axis=1):
        assert (column < 100).any() and (column[:, [0, -1]] == 255).all()
