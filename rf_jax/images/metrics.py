"""Image metrics, on what the published training logs compare."""

import dm_pix
import jax
import jax.numpy as jnp

from rf_jax.images.radiance import display, linear_radiance


def psnr(log_image: jax.Array, log_target: jax.Array) -> jax.Array:
    """Decibels [...] of linear radiance clipped to [0, 1].

    Args:
      log_image, log_target: log10(1 + radiance) [..., H, W, 3].
    """
    images = (jnp.clip(linear_radiance(x), 0, 1) for x in (log_image, log_target))
    return _per_image(dm_pix.psnr, *images)


def ssim(log_image: jax.Array, log_target: jax.Array) -> jax.Array:
    """Structural similarity [...] of the display values clamp(log2(1 + radiance)).

    Args:
      log_image, log_target: log10(1 + radiance) [..., H, W, 3], sides of at least 11.
    """
    return _per_image(dm_pix.ssim, display(log_image), display(log_target))


def _per_image(metric, a, b):
    """Applies a metric of [n, H, W, 3] to [..., H, W, 3]."""
    values = metric(a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]))
    return values.reshape(a.shape[:-3])
