"""A picture of a network's image beside its ground truth."""

import flip_evaluator
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rf_jax.images.tone_map import to_uint8

MIN_HEIGHT = 256
"""Rows that a comparison has at least; smaller images are enlarged."""

TITLES = ("prediction", "path traced", "FLIP error, black 0 to white 1")
"""What the three columns of a comparison show."""

FIT_TITLES = ("target", "start", "result", "FLIP error, black 0 to white 1")
"""What the four columns of a comparison of a fit show."""

TITLE_HEIGHT = 24
"""Rows of the titles. It is even, as the height of a video must be."""

PIXELS_PER_DEGREE = 67.0
"""Of the display that FLIP assumes, 0.7 m away (Andersson et al. 2020, section 4.1)."""


def comparison_image(display: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, the truth and the error that an observer sees, side by side.

    The error is FLIP (Andersson et al. 2020) of the pictures as they are enlarged here, in the
    colours of its authors: from black, no difference, over purple and orange to white.

    Args:
      display, truth: [H, W, 3] display values in [0, 1].

    Returns:
      [n H, n 3 W, 3]: every pixel is repeated n times in both directions, with the smallest n that
      gives `MIN_HEIGHT` rows.
    """
    return _row_with_error(display, truth, [display, truth])


def fit_comparison(
    target: NDArray[np.float32], start: NDArray[np.float32], result: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The pictures of a fit, side by side, and the FLIP error of its result.

    Args:
      target, start, result: [H, W, 3] display values in [0, 1].

    Returns:
      [n H, n 4 W, 3], enlarged as in `comparison_image`.
    """
    return _row_with_error(result, target, [target, start, result])


def _row_with_error(display, truth, pictures):
    """Pictures and the FLIP error of one against another, enlarged."""
    repeats = -(-MIN_HEIGHT // len(display))
    error, _, _ = flip_evaluator.evaluate(
        np.ascontiguousarray(truth),
        np.ascontiguousarray(display),
        "LDR",
        computeMeanError=False,
        parameters={"ppd": PIXELS_PER_DEGREE / repeats},
    )
    row = to_uint8(np.concatenate([*pictures, error], axis=1))
    return row.repeat(repeats, axis=0).repeat(repeats, axis=1)


def with_titles(picture: NDArray[np.uint8], titles: tuple[str, ...] = TITLES) -> NDArray[np.uint8]:
    """Comparisons [H, W, 3], one below the other, under the titles of their columns."""
    width = picture.shape[1]
    bar = Image.new("RGB", (width, TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(bar)
    for column, title in enumerate(titles):
        center = (column + 0.5) * width / len(titles), TITLE_HEIGHT / 2
        draw.text(center, title, "black", ImageFont.load_default(15), anchor="mm")
    return np.concatenate([np.asarray(bar), picture])
