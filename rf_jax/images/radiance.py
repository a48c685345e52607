"""Radiance in the units that the network, the losses and the metrics compare.

The network reads and writes log10(1 + radiance). Every function takes NumPy or JAX arrays and keeps
their kind.
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
    """log10(1 + radiance), of any shape."""
    return _namespace(radiance).log1p(radiance) / LN_10


def linear_radiance(log_radiance: ArrayLike) -> ArrayLike:
    """The inverse of `log_radiance`; expm1 keeps the digits of dark values."""
    return _namespace(log_radiance).expm1(log_radiance * LN_10)


def display(log_radiance: ArrayLike) -> ArrayLike:
    """clamp(log2(1 + radiance), 0, 1) of log10(1 + radiance): the proxy tone map of training."""
    return _namespace(log_radiance).clip(log_radiance / LOG10_2, 0.0, 1.0)


def _namespace(x: ArrayLike) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np
