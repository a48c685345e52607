"""Denoising by Open Image Denoise."""

import importlib.util

import numpy as np

from rf_jax.errors import InputError

INSTALL = "denoising needs pyoidn: pip install 'rf_jax[datagen]', or set render.denoise to False"


def check_denoiser() -> None:
    """Raises an InputError with the command that installs pyoidn if it is missing."""
    if importlib.util.find_spec("pyoidn") is None:
        raise InputError(INSTALL)


def denoise(images: np.ndarray, albedo: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Denoises the colours of images; their alpha stays as it is.

    Args:
      images: [V, H, H, 4] linear RGB, premultiplied, and coverage, float32.
      albedo, normals: [V, H, H, 3] guides, 0 where there is no surface.

    Raises:
      InputError: pyoidn is not installed.
    """
    check_denoiser()
    import pyoidn

    out = images.copy()
    for view in range(len(images)):
        color, *guides = (
            np.ascontiguousarray(array[view, ..., :3], np.float32)
            for array in (images, albedo, normals)
        )
        clean = pyoidn.denoise(color, albedo=guides[0], normal=guides[1], hdr=True)
        out[view, ..., :3] = np.maximum(clean, 0)
    return out
