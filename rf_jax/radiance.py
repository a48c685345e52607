"""Radiance in the units that the network, the losses and the metrics use.

The network reads emission and writes images as log10(1 + radiance). The functions here are the
only ones that encode and decode it. They take NumPy or JAX arrays and return the same kind.
"""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

LN_10 = math.log(10)
LOG10_2 = math.log10(2)


def log_radiance(radiance: ArrayLike) -> ArrayLike:
    """log10(1 + radiance) of linear radiance of any shape, at least 0."""
    return _namespace(radiance).log1p(radiance) / LN_10


def linear_radiance(log_radiance: ArrayLike) -> ArrayLike:
    """The inverse of `log_radiance`; expm1 keeps the digits of dark values."""
    return _namespace(log_radiance).expm1(log_radiance * LN_10)


def display(log_radiance: ArrayLike) -> ArrayLike:
    """Display values clamp(log2(1 + radiance), 0, 1): the tone mapping that LPIPS and SSIM see.

    Args:
      log_radiance: log10(1 + radiance) of any shape.
    """
    return _namespace(log_radiance).clip(log_radiance / LOG10_2, 0.0, 1.0)


def _namespace(x: ArrayLike) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np
