"""From linear images to what the page shows behind its own lines and handles."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rf_jax.images.tone_map import to_uint8, tone_map

LEAST_ROWS = 256
"""Rows that a picture has at least, so that its columns can follow the shape of the page."""

BESIDE = (24, 24, 27)
"""Colour of the page beside the square image."""


def displayed(
    linear: NDArray[np.float32], exposure: float, tone_mapper: str
) -> NDArray[np.float32]:
    """Display values [H, H, 3] in [0, 1] of linear radiance.

    Args:
      linear: [H, H, 3].
      exposure: in stops; one more doubles the radiance.
      tone_mapper: one of `rf_jax.images.tone_map.TONE_MAPPERS`.
    """
    return tone_map(linear * np.float32(2.0**exposure), tone_mapper)


def canvas_picture(display: NDArray[np.float32], aspect: float) -> NDArray[np.uint8]:
    """The picture of a whole canvas, with a square image in its middle that is as high as it.

    The page stretches this picture over its canvas. Pixels are interpolated at the exact place, so
    the image fits the page's own lines whatever the aspect.

    Args:
      display: [H, H, 3] in [0, 1].
      aspect: width of the canvas over its height. Below 1 the sides of the image are cut off.

    Returns:
      [rows, columns, 3], where rows is H or `LEAST_ROWS`.
    """
    side = len(display)
    beside = max(0, int(np.ceil((aspect - 1) / 2 * side)))
    pixels = np.empty((side, side + 2 * beside, 3), np.uint8)
    pixels[:] = BESIDE
    pixels[:, beside : beside + side] = to_uint8(display)
    rows = max(side, LEAST_ROWS)
    middle, half = beside + side / 2, aspect * side / 2
    picture = Image.fromarray(pixels).resize(
        (max(1, round(rows * aspect)), rows),
        Image.Resampling.BILINEAR,
        box=(max(0.0, middle - half), 0, min(pixels.shape[1], middle + half), side),
    )
    return np.asarray(picture)
