"""A network's images against ground truth: a picture of both, and PSNR."""

import numpy as np
from numpy.typing import NDArray

from rf_jax.images.tone_map import to_uint8

LEAST_HEIGHT = 256
GAIN = 4
"""Of the difference, so that small errors can be seen."""


def comparison_image(display: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, the truth and `GAIN` times their absolute difference side by side.

    Args:
      display, truth: [H, W, 3] display values in [0, 1].

    Returns:
      [n H, 3 n W, 3], every pixel repeated n times, for at least `LEAST_HEIGHT` rows.
    """
    difference = np.clip(GAIN * np.abs(display - truth), 0, 1)
    row = to_uint8(np.concatenate([display, truth, difference], axis=1))
    repeats = -(-LEAST_HEIGHT // len(row))
    return row.repeat(repeats, axis=0).repeat(repeats, axis=1)


def clipped_psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Decibels of linear radiance clipped to [0, 1], of arrays of one shape; inf if equal."""
    error = np.mean((np.clip(image, 0, 1) - np.clip(truth, 0, 1)) ** 2, dtype=np.float64)
    return float(-10 * np.log10(error)) if error > 0 else np.inf
