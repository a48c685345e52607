"""Display transforms: from linear radiance to the values that a screen shows."""

import functools

import numpy as np
from numpy.typing import NDArray
from simple_ocio import ToneMapper

from rf_jax.errors import InputError

_OCIO_VIEWS = {"agx": "AgX", "filmic": "Filmic", "pbr_neutral": "Khronos PBR Neutral"}
TONE_MAPPERS = ("none", *_OCIO_VIEWS)


def tone_map(hdr: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Maps linear radiance to display values.

    Args:
      hdr: [H, W, 3] linear radiance; it is not modified.
      name: one of `TONE_MAPPERS`. `none` clips and leaves values linear, as the published renderer
        does; the others are Blender's view transforms, whose output is sRGB encoded.

    Returns:
      [H, W, 3] float32 in [0, 1].

    Raises:
      InputError: an unknown name, another shape, or values that are not finite.
    """
    if name not in TONE_MAPPERS:
        raise InputError(
            f"tone mapper {name!r} is unknown; choose one of {', '.join(TONE_MAPPERS)}"
        )
    hdr = np.asarray(hdr, np.float32)
    if hdr.ndim != 3 or hdr.shape[-1] != 3:
        raise InputError(f"tone mapping expects an image [H, W, 3], found shape {hdr.shape}")
    if bad := np.count_nonzero(~np.isfinite(hdr)):
        raise InputError(f"tone mapping expects finite values; {bad} of {hdr.size} are nan or inf")
    if name == "none":
        return np.clip(hdr, 0.0, 1.0)
    return _ocio_mapper(_OCIO_VIEWS[name]).hdr_to_ldr(hdr)


def to_uint8(display: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Clips display values of any shape to [0, 1] and rounds them to 0..255."""
    return np.rint(np.clip(display, 0.0, 1.0) * 255.0).astype(np.uint8)


@functools.cache
def _ocio_mapper(view: str) -> ToneMapper:
    return ToneMapper(view)
