"""The training loss.

Here p is the network's output, the predicted log10(1 + radiance), and t that of the ground truth.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rf_jax.radiance import display, log_radiance

Distance = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""Takes the weights of a perceptual distance and two arrays of images [n, H, W, 3] in [0, 1], and
returns their distances [n]. The weights are an argument so that compiled programs do not contain
them."""


def training_loss(
    prediction: jax.Array,
    radiance: jax.Array,
    lpips_weight: float,
    perceptual: Distance | None = None,
    perceptual_params: Any = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """mean |p - t| + w LPIPS(clamp(p / log10 2), clamp(t / log10 2)); RenderFormer, section 4.

    Args:
      prediction: p [B, V, H, W, 3], float32.
      radiance: ground truth [B, V, H, W, 3], linear, float32.
      lpips_weight: w.
      perceptual: LPIPS; needed unless the weight is 0.
      perceptual_params: its weights.

    Returns:
      the loss, and its unweighted terms by name.
    """
    target = log_radiance(radiance)
    terms = {"l1": jnp.abs(prediction - target).mean()}
    loss = terms["l1"]
    if lpips_weight:
        images = (display(x).reshape(-1, *x.shape[2:]) for x in (prediction, target))
        terms["lpips"] = perceptual(perceptual_params, *images).mean()
        loss = loss + lpips_weight * terms["lpips"]
    return loss, terms
