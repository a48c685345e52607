"""Environment maps of RenderFormer V2: reading, rotating, and the two images that are encoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rf_jax.errors import InputError
from rf_jax.geometry import environment_directions
from rf_jax.images.files import load_exr
from rf_jax.scene.mesh import rotation_xyz

SHAPE = (256, 512)
"""Height and width in pixels; RenderFormer V2 reads no others."""


class EnvironmentImages(NamedTuple):
    """Two images [H, W, 3] in [-1, 1] of one map, and the largest log10(1 + radiance) in it."""

    ldr: np.ndarray
    hdr: np.ndarray
    strength: np.float32


def load_environment_map(
    path: str | Path, rotation: Sequence[float] = (0, 0, 0), strength: float = 1
) -> np.ndarray:
    """Reads a map, rotates it, and multiplies it.

    Args:
      path: an equirectangular EXR of 512x256 pixels, linear RGB, with +z in its first row.
      rotation: degrees about the fixed axes x, then y, then z, as `rotate_environment_map` reads
        them.
      strength: factor of the radiance.

    Returns:
      [256, 512, 3] radiance, float32.

    Raises:
      InputError: the file cannot be read, has another size, or holds values that are no radiance.
    """
    radiance = load_exr(path)[..., :3]
    check_environment_map(radiance, str(path))
    with np.errstate(over="ignore"):
        radiance = rotate_environment_map(radiance, rotation) * np.float32(strength)
    check_environment_map(radiance, f"{path}, times its strength of {strength:g}")
    return radiance


def check_environment_map(radiance: np.ndarray, name: str) -> None:
    """Checks a map [H, W, 3] of radiance; `name` is what a message begins with.

    Raises:
      InputError: it has another shape than [256, 512, 3], or values that are not finite and >= 0.
    """
    if radiance.shape != (*SHAPE, 3):
        height, width = SHAPE
        raise InputError(
            f"{name}: expected an environment map of {width}x{height} pixels in RGB, which "
            f"RenderFormer V2 reads, found {list(radiance.shape)} (height, width, channels); "
            "resize it"
        )
    if bad := np.count_nonzero(~((radiance >= 0) & (radiance < np.inf))):
        raise InputError(f"{name}: expected finite radiance >= 0, found {bad} other values")


def rotate_environment_map(radiance: np.ndarray, rotation: Sequence[float]) -> np.ndarray:
    """The map whose value in direction d is the old one in direction R d.

    Old values are interpolated bilinearly within the map, whose border pixels are repeated.

    Args:
      radiance: [H, W, 3].
      rotation: degrees; R rotates about the fixed axes x, then y, then z.

    Returns:
      [H, W, 3] float32.
    """
    radiance = np.asarray(radiance, np.float32)
    if not np.any(rotation):
        return radiance
    height, width, _ = radiance.shape
    directions = environment_directions(height, width) @ rotation_xyz(np.asarray(rotation)).T
    x, y, z = np.moveaxis(directions, -1, 0)
    u = (0.5 - np.arctan2(y, x) / (2 * np.pi)) % 1
    v = np.arccos(np.clip(z, -1, 1)) / np.pi
    column, left, right = _neighbours(u * width - 0.5, width)
    row, top, bottom = _neighbours(v * height - 0.5, height)
    upper = radiance[top, left] * (1 - column) + radiance[top, right] * column
    lower = radiance[bottom, left] * (1 - column) + radiance[bottom, right] * column
    return (upper * (1 - row) + lower * row).astype(np.float32)


def environment_images(radiance: np.ndarray) -> EnvironmentImages:
    """The images of a map [H, W, 3] that are encoded: its displayable part, and its logarithm."""
    logarithm = np.log10(1 + np.asarray(radiance, np.float32))
    strength = logarithm.max()
    hdr = logarithm / (strength + np.float32(1e-8)) * 2 - 1
    return EnvironmentImages(np.clip(radiance, 0, 1).astype(np.float32) * 2 - 1, hdr, strength)


def _neighbours(place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight [H, W, 1] of the next pixel at a place in pixels, and the pixels around it."""
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(np.int64)
    return (place - low)[..., None], low, np.minimum(low + 1, size - 1)
