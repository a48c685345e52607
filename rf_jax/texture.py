"""The 13 material channels of a triangle, and patches that hold one value.

A patch is [13, T, T]; the triangle covers the texels with x + y <= T, the others are 0.
"""

import numpy as np

NUM_CHANNELS = 13
DIFFUSE = slice(0, 3)
SPECULAR = slice(3, 6)
ROUGHNESS = slice(6, 7)
NORMAL = slice(7, 10)
EMISSION = slice(10, 13)

FLAT_NORMAL = (0.5, 0.5, 1.0)
"""The normal channels of a surface without a normal map."""

PUBLISHED_SIZE = 32
"""Texels a side in published files."""


def texel_mask(size: int) -> np.ndarray:
    """[T, T] bool: the texels that the triangle covers."""
    x, y = np.indices((size, size))
    return x + y <= size


def constant_value(texture: np.ndarray) -> np.ndarray | None:
    """The value per triangle [..., 13] of patches [..., 13, T, T] that hold just one, else None."""
    value = texture[..., 0, 0]
    expected = np.where(texel_mask(texture.shape[-1]), value[..., None, None], 0)
    return value if np.array_equal(texture, expected) else None


def expand(value: np.ndarray, size: int = PUBLISHED_SIZE) -> np.ndarray:
    """[..., 13] -> [..., 13, T, T], the inverse of `constant_value`."""
    return np.where(texel_mask(size), value[..., None, None], np.zeros((), value.dtype))
