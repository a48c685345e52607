"""Random changes of a training sample, drawn on the host by the sample's own generator."""

import numpy as np
from scipy.spatial.transform import Rotation

TRANSLATION_STD = 0.25


def random_rigid_motion(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] as published: x' = R x + t.

    The rotation vector is N(0, 1) radian along each axis (its angle is not uniform), the
    translation N(0, 0.25^2).
    """
    rotation = Rotation.from_rotvec(rng.standard_normal(3)).as_matrix()
    translation = TRANSLATION_STD * rng.standard_normal(3)
    return rotation.astype(np.float32), translation.astype(np.float32)


def draw_views(rng: np.random.Generator, count: int, views: int) -> np.ndarray:
    """`views` of `count` view indices, without replacement."""
    return rng.choice(count, views, replace=False)


def draw_crops(
    rng: np.random.Generator, views: int, resolution: int, side: int, multiple: int
) -> np.ndarray:
    """First rows and columns [V, 2] of square crops, multiples of `multiple` (the patch size)."""
    positions = (resolution - side) // multiple + 1
    return (rng.integers(positions, size=(views, 2)) * multiple).astype(np.int32)
