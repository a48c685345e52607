"""Pictures that notebooks display."""

import dataclasses

import imageio.v3 as iio
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rf_jax.errors import InputError
from rf_jax.images.tone_map import to_uint8, tone_map


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ShownImage:
    """A picture; a notebook displays it where it is the last value of a cell.

    Attributes:
      pixels: [H, W, 3] uint8 display values.
    """

    pixels: NDArray[np.uint8]

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"ShownImage({width}x{height} pixels)"

    def _repr_png_(self) -> bytes:
        return iio.imwrite("<bytes>", self.pixels, extension=".png", plugin="pillow")


def show(image: ArrayLike, tone_mapper: str = "none") -> ShownImage:
    """Tone maps linear radiance for a notebook.

    Args:
      image: [H, W, 3 or 4], or with axes in front, such as the [B, V, H, W, C] of
        `Renderer.render`: scenes go down and views to the right. Alpha is left out.
      tone_mapper: one of `rf_jax.images.tone_map.TONE_MAPPERS`.

    Raises:
      InputError: no array, another shape, values that are not finite, or an unknown tone mapper.
    """
    try:
        image = np.asarray(image, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"image: expected an array, found {type(image).__name__}") from error
    if not 3 <= image.ndim <= 5 or image.shape[-1] not in (3, 4) or not image.size:
        raise InputError(
            "image: expected [H, W, C] or [B, V, H, W, C] with 3 or 4 channels, "
            f"found {list(image.shape)}"
        )
    grid = image.reshape(*(1,) * (5 - image.ndim), *image.shape)[..., :3]
    rows, columns, height, width, _ = grid.shape
    sheet = grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return ShownImage(to_uint8(tone_map(sheet, tone_mapper)))
