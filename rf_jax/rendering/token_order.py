"""The order of a scene's triangles for attention functions that want neighbours side by side.

All of it takes NumPy or JAX arrays, traced ones too: an order is constant between the places where
two triangles swap, so gradients flow through the triangles that it picks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rf_jax.geometry import hilbert_order
from rf_jax.models import RenderFormerConfig


def sorts_triangles(config: RenderFormerConfig) -> bool:
    """Whether an attention function of the network wants neighbours close to each other."""
    stages = config.view_independent, config.view_dependent
    return any(stage.attention.token_order for stage in stages)


def token_order(
    triangles: ArrayLike, emission: ArrayLike, config: RenderFormerConfig
) -> ArrayLike | slice:
    """Indices [N] that order the triangles of one scene; a slice that keeps them if none is needed.

    They follow a Hilbert curve if an attention function of the network wants neighbours close to
    each other; lights come first if it treats them apart.

    Args:
      triangles: [N, 3, 3], all valid.
      emission: [N, ...] linear radiance.
      config: the network that will read them.
    """
    if not sorts_triangles(config):
        return slice(None)
    order = hilbert_order(triangles.mean(axis=1))
    most_lights = config.view_independent.attention.most_lights
    if not most_lights:
        return order
    return _lights_first(order, _radiant_power(triangles, emission)[order], most_lights)


def _lights_first(order: ArrayLike, power: ArrayLike, most: int) -> ArrayLike:
    """Moves at most that many triangles to the front, of those with the most power."""
    xp = _namespace(order)
    rank = xp.argsort(xp.lexsort((-power,)))  # a lexsort is stable
    is_first = (rank < most) & (power > 0)
    return order[xp.lexsort((~is_first,))]


def _radiant_power(triangles: ArrayLike, emission: ArrayLike) -> ArrayLike:
    """Emission times area [N], up to a factor; greater than 0 for all triangles that emit."""
    xp = _namespace(triangles)
    real = xp.result_type(float)
    emission = emission.reshape(len(emission), -1)
    # What log10(1 + e) rounds to 0 emits nothing.
    emission = xp.where(1 + emission > 1, emission, 0).sum(axis=1, dtype=real)
    edges = (triangles[:, 1:] - triangles[:, :1]).astype(real)
    area = xp.linalg.norm(xp.cross(edges[:, 0], edges[:, 1]), axis=-1)
    return xp.maximum(emission * area, xp.where(emission > 0, xp.finfo(real).tiny, 0))


def _namespace(x: ArrayLike):
    return jnp if isinstance(x, jax.Array) else np
