"""Random choices for a training sample, drawn on the host by the sample's own generator."""

import numpy as np
from scipy.spatial.transform import Rotation

TRANSLATION_STD = 0.25
"""Standard deviation of the translation along each axis, in scene units."""


def random_rigid_motion(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a rotation R [3, 3] and a translation t [3], for x' = R x + t, as published.

    Each component of the rotation vector is N(0, 1) in radians, so that rotations are not uniform;
    each component of the translation is N(0, 0.25^2).
    """
    rotation = Rotation.from_rotvec(rng.standard_normal(3)).as_matrix()
    translation = TRANSLATION_STD * rng.standard_normal(3)
    return rotation.astype(np.float32), translation.astype(np.float32)


def draw_views(rng: np.random.Generator, count: int, views: int) -> np.ndarray:
    """Draws the indices [views] of views among `count`, without replacement."""
    return rng.choice(count, views, replace=False)


def draw_crops(
    rng: np.random.Generator, views: int, resolution: int, side: int, multiple: int
) -> np.ndarray:
    """Draws the first rows and columns [views, 2] of square crops.

    Args:
      rng: the sample's generator.
      views: number of crops, one per view.
      resolution: side of the views in pixels.
      side: side of the crops in pixels.
      multiple: rows and columns are multiples of this, the patch size.
    """
    positions = (resolution - side) // multiple + 1
    return (rng.integers(positions, size=(views, 2)) * multiple).astype(np.int32)
