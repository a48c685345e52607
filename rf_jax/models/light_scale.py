"""Images in proportion to emission, whatever network makes them.

Light adds up, so a scene whose lights are all k times as strong has k times the radiance
everywhere. A network that reads log10(1 + emission) has to learn this; here it holds by
construction: the network sees every scene with its brightest emission at one reference value, and
its image is scaled back.
"""

import jax
import jax.numpy as jnp

from rf_jax.radiance import linear_radiance, log_radiance
from rf_jax.structs import EMISSION


def normalize_light(texture: jax.Array, reference: float) -> tuple[jax.Array, jax.Array]:
    """Brings the brightest emission of each scene to a reference.

    Args:
      texture: [B, N, 13] or [B, N, 13, T, T], emission e given as log10(1 + e).
      reference: the largest value that any channel of emission then has, anywhere.

    Returns:
      the texture with scaled emission, and the scale [B] that undoes this; it is 1 for scenes
      without light.
    """
    emission = linear_radiance(texture[:, :, EMISSION])
    brightest = emission.max(axis=tuple(range(1, emission.ndim)))
    scale = jnp.where(brightest > 0, brightest / reference, 1.0)
    emission = log_radiance(emission / scale.reshape(-1, *[1] * (emission.ndim - 1)))
    return texture.at[:, :, EMISSION].set(emission), scale


def scale_light(image: jax.Array, scale: jax.Array) -> jax.Array:
    """Multiplies radiance; a fourth channel, alpha, stays.

    Args:
      image: [B, V, H, W, C], log10(1 + radiance). Values below 0, which a network may return, are
        multiplied as they are: the gradient is continuous there.
      scale: [B].
    """
    scale = scale[:, None, None, None, None]
    color, alpha = image[..., :3], image[..., 3:]
    radiance = scale * linear_radiance(jnp.maximum(color, 0))
    color = jnp.where(color > 0, log_radiance(radiance), scale * color)
    return jnp.concatenate([color, alpha], axis=-1)
