"""Shifted windows of ray patches (Swin, Liu et al. 2021; RenderFormer V1.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.attention import AttentionFn
from rf_jax.models.config import WINDOW_SIZE
from rf_jax.precision import float32_product


def partition_windows(x: jax.Array, side: int, shift: int) -> jax.Array:
    """Rolls square grids of patches by -shift, and cuts each into n windows.

    Args:
      x: [B, side side, D].
      side: patches per side of the grid.
      shift: in patches.

    Returns:
      [B n, 64, D].
    """
    batch, _, width = x.shape
    windows = side // WINDOW_SIZE
    x = _roll(x.reshape(batch, side, side, width), -shift)
    x = x.reshape(batch, windows, WINDOW_SIZE, windows, WINDOW_SIZE, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW_SIZE**2, width)


def merge_windows(x: jax.Array, side: int, shift: int) -> jax.Array:
    """The inverse of `partition_windows`: [B n, 64, D] -> [B, side side, D]."""
    width, windows = x.shape[-1], side // WINDOW_SIZE
    x = x.reshape(-1, windows, windows, WINDOW_SIZE, WINDOW_SIZE, width)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, width)
    return _roll(x, shift).reshape(-1, side**2, width)


def _roll(images, shift):
    return jnp.roll(images, (shift, shift), axis=(1, 2)) if shift else images


def window_mask(side: int) -> np.ndarray:
    """The pairs of patches in each shifted window that may attend to each other: [n, 64, 64] bool.

    The roll brings patches from opposite borders of the image together in the last windows; these
    must not see each other.
    """
    position, windows = np.arange(side), side // WINDOW_SIZE
    band = (position >= side - WINDOW_SIZE).astype(int) + (position >= side - WINDOW_SIZE // 2)
    region = 3 * band[:, None] + band  # (side, side)
    region = region.reshape(windows, WINDOW_SIZE, windows, WINDOW_SIZE)
    region = region.transpose(0, 2, 1, 3).reshape(-1, WINDOW_SIZE**2)
    return region[:, :, None] == region[:, None, :]


def window_attention(shift: int, side: int) -> AttentionFn:
    """Dense attention within windows [B n, 64, nh, hd], masked by `window_mask` if shifted.

    The function ignores its key lengths, because all patches of an image are valid.
    """
    mask = window_mask(side) if shift else None  # (n, 64, 64)

    def attend(query, key, value, _):
        product = float32_product(query.dtype)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, **product) * query.shape[-1] ** -0.5
        if mask is not None:
            by_image = scores.reshape(-1, mask.shape[0], *scores.shape[1:])  # (B, n, nh, 64, 64)
            scores = jnp.where(mask[:, None], by_image, -jnp.inf).reshape(scores.shape)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return jnp.einsum("nhqk,nkhd->nqhd", weights, value, **product).astype(query.dtype)

    return attend
