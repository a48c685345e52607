"""A picture of a network's image beside its ground truth."""

import numpy as np
from numpy.typing import NDArray

from rf_jax.images.tone_map import to_uint8

MIN_HEIGHT = 256
"""Rows that a comparison has at least; smaller images are enlarged."""

DIFFERENCE_GAIN = 4
"""Factor that the difference is multiplied by, so that small errors can be seen."""


def comparison_image(display: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, the truth and `DIFFERENCE_GAIN` times their absolute difference side by side.

    Args:
      display, truth: [H, W, 3] display values in [0, 1].

    Returns:
      [n H, n 3 W, 3]: every pixel is repeated n times in both directions, with the smallest n that
      gives `MIN_HEIGHT` rows.
    """
    difference = np.clip(DIFFERENCE_GAIN * np.abs(display - truth), 0, 1)
    row = to_uint8(np.concatenate([display, truth, difference], axis=1))
    repeats = -(-MIN_HEIGHT // len(row))
    return row.repeat(repeats, axis=0).repeat(repeats, axis=1)
