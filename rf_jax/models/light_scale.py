"""Images in proportion to emission, whatever network makes them.

Light adds up, in each colour by itself: a scene whose lights are all k times as red has k times the
red radiance everywhere. A network that reads log10(1 + emission) has to learn this; here it holds
by construction. The network sees every scene with its brightest emission of each colour at one
reference value, and its image is scaled back.
"""

import jax
import jax.numpy as jnp

from rf_jax.radiance import linear_radiance, log_radiance
from rf_jax.structs import EMISSION


def normalize_light(texture: jax.Array, reference: float) -> tuple[jax.Array, jax.Array]:
    """Brings the brightest emission of each scene to a reference, colour by colour.

    Args:
      texture: [B, N, 13] or [B, N, 13, T, T], emission e given as log10(1 + e).
      reference: the largest value that emission then has in each colour.

    Returns:
      the texture with scaled emission, and the scale [B, 3] that undoes this. A colour that no
      triangle emits has the scale 0, and the network sees the brightest of the others in its place.
    """
    emission = linear_radiance(texture[:, :, EMISSION])
    scale = emission.max(axis=(1, *range(3, emission.ndim)), keepdims=True) / reference
    emission = emission / jnp.where(scale > 0, scale, 1.0)
    emission = jnp.where(scale > 0, emission, emission.max(axis=2, keepdims=True))
    texture = texture.at[:, :, EMISSION].set(log_radiance(emission))
    return texture, scale.reshape(-1, 3)


def scale_light(image: jax.Array, scale: jax.Array) -> jax.Array:
    """Multiplies radiance; a fourth channel, alpha, stays.

    Args:
      image: [B, V, H, W, C], log10(1 + radiance). Values below 0, which a network may return, are
        multiplied as they are: the gradient is continuous there.
      scale: [B, 3].
    """
    scale = scale[:, None, None, None]
    color, alpha = image[..., :3], image[..., 3:]
    radiance = scale * linear_radiance(jnp.maximum(color, 0))
    color = jnp.where(color > 0, log_radiance(radiance), scale * color)
    return jnp.concatenate([color, alpha], axis=-1)
