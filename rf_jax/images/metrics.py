"""Image metrics, as the published training logs report them."""

import dm_pix
import jax
import jax.numpy as jnp


@jax.jit
def psnr(image: jax.Array, target: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, of radiance clipped to [0, 1].

    Args:
      image, target: linear radiance [..., H, W, 3].

    Returns:
      One value [...] per image; inf for images that are equal after clipping.
    """
    return _per_image(dm_pix.psnr, *(jnp.clip(x, 0, 1) for x in (image, target)))


@jax.jit
def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004), windows of 11 pixels.

    Args:
      a, b: display values in [0, 1], [..., H, W, 3] with H and W at least 11.

    Returns:
      One value [...] per pair of images.
    """
    return _per_image(dm_pix.ssim, a, b)


def _per_image(metric, a, b):
    """Applies a metric of [n, H, W, 3] to [..., H, W, 3]."""
    values = metric(a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]))
    return values.reshape(a.shape[:-3])
