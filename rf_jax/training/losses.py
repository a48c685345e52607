"""The training loss.

Here p is the network's output, the predicted log10(1 + radiance), and t that of the ground truth.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rf_jax.images.radiance import display, log_radiance

PerceptualFn = Callable[[jax.Array, jax.Array], jax.Array]
"""Takes two arrays of images [n, H, W, 3] in [0, 1], and returns their distances [n]."""


def training_loss(
    prediction: jax.Array,
    radiance: jax.Array,
    perceptual_fn: PerceptualFn | None,
    lpips_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """mean |p - t| + w LPIPS(clamp(p / log10 2), clamp(t / log10 2)); RenderFormer, section 4.

    Args:
      prediction: p [B, V, H, W, 3], float32.
      radiance: ground truth [B, V, H, W, 3], linear, float32.
      perceptual_fn: LPIPS; needed unless the weight is 0.
      lpips_weight: w.

    Returns:
      the loss, and its unweighted terms by name.
    """
    target = log_radiance(radiance)
    terms = {"l1": jnp.abs(prediction - target).mean()}
    loss = terms["l1"]
    if lpips_weight:
        images = (display(x).reshape(-1, *x.shape[2:]) for x in (prediction, target))
        terms["lpips"] = perceptual_fn(*images).mean()
        loss = loss + lpips_weight * terms["lpips"]
    return loss, terms
