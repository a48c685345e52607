"""What the page shows, and what is drawn over it."""

import numpy as np
import pytest

from rf_jax.viewer.picture import BESIDE, canvas_picture, displayed
from rf_jax.viewer.wireframe import edges, first_hit


@pytest.mark.parametrize("aspect", [0.5, 0.77, 1.0, 1.33, 1.5123, 2.4])
@pytest.mark.parametrize("side", [32, 64, 300])
def test_the_square_stands_in_the_middle_as_high_as_the_canvas(aspect, side):
    """A spot at (u, v) of the square, v in [-1, 1] over its height, is there on the canvas."""
    row, column = side // 4, side // 2 + side // 8
    display = np.zeros((side, side, 3), np.float32)
    display[row, column] = 1
    picture = canvas_picture(display, aspect).astype(float)
    rows, columns, _ = picture.shape
    assert columns / rows == pytest.approx(aspect, abs=0.5 / rows)
    weights = np.where(np.all(picture == BESIDE, axis=-1), 0, picture[..., 0])
    weights[weights < 30] = 0  # the edge of the colour beside the image
    y = np.average(np.arange(rows) + 0.5, weights=weights.sum(axis=1)) / rows
    x = np.average(np.arange(columns) + 0.5, weights=weights.sum(axis=0)) / columns
    assert y == pytest.approx((row + 0.5) / side, abs=0.25 / side)
    # Columns are measured in heights from the middle
    assert (x - 0.5) * aspect == pytest.approx((column + 0.5) / side - 0.5, abs=0.25 / side)


def test_beside_the_square_is_the_colour_of_the_page():
    picture = canvas_picture(np.ones((64, 64, 3), np.float32), 2.0)
    assert picture.shape == (256, 512, 3)
    assert (picture[:, 136:376] == 255).all()
    assert (picture[:, :120] == BESIDE).all() and (picture[:, -120:] == BESIDE).all()


def test_exposure_is_in_stops():
    linear = np.full((4, 4, 3), 0.1, np.float32)
    np.testing.assert_allclose(displayed(linear, 2, "none"), 0.4, rtol=1e-6)
    np.testing.assert_allclose(displayed(linear, -1, "none"), 0.05, rtol=1e-6)
    assert displayed(linear, 0, "agx").mean() > 0.3  # encoded


SQUARE = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], float)


def test_shared_edges_are_drawn_once():
    lines = edges(SQUARE)
    assert lines.shape == (5, 2, 3) and lines.dtype == np.float32
    found = {frozenset(map(tuple, line.tolist())) for line in lines}
    assert frozenset([(0, 0, 0), (1, 1, 0)]) in found and len(found) == 5
    assert len(edges(np.concatenate([SQUARE, SQUARE[:, ::-1]]))) == 5


def test_clicks_hit_what_is_in_front():
    stack = np.concatenate([SQUARE - [0, 0, 1], SQUARE, SQUARE[:, ::-1] + [0, 0, 1]])
    assert first_hit(stack, (0.7, 0.2, 5), (0, 0, -3)) == 4  # its back
    assert first_hit(stack, (0.2, 0.7, 0.5), (0, 0, -1)) == 3
    assert first_hit(stack, (0.2, 0.7, -0.5), (0, 0, 1)) == 3
    assert first_hit(stack, (0.2, 0.7, 5), (0, 0, 1)) is None  # behind
    assert first_hit(stack, (-1, 0.5, 0), (1, 0, 0)) is None  # along the plane
    assert first_hit(stack, (1.5, 0.5, 5), (0, 0, -1)) is None  # beside
