"""The GPU that a program is compiled for, known when the program is lowered."""

from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

HOPPER = 90
"""Ten times the compute capability of Hopper GPUs."""

UNKNOWN = 80
"""The capability of a GPU that is not known, in programs that are exported without one: 8.0, which
is an A100's."""


def compute_capability() -> jax.Array:
    """Ten times the compute capability of the compile target (90 on Hopper), an int32 scalar.

    It is for NVIDIA GPUs only, within a branch of `jax.lax.platform_dependent`. XLA knows it as a
    constant, so that of a `jax.lax.cond` on it only one branch is compiled. `jax.devices()` would
    ask the machine that compiles, which need not have the GPU.
    """
    return _compute_capability_p.bind()


def capability_of(client: Any) -> int:
    """Ten times the compute capability of a client's GPUs; `UNKNOWN` if it has none or is None."""
    known = None if client is None else getattr(client.devices()[0], "compute_capability", None)
    return UNKNOWN if known is None else round(10 * float(known))


def _lower(context):
    capability = np.int32(capability_of(context.module_context.backend))
    return mlir.lower_fun(lambda: [capability], multiple_results=True)(context)


_compute_capability_p = Primitive("compute_capability")
_compute_capability_p.def_abstract_eval(lambda: jax.core.ShapedArray((), np.int32))
mlir.register_lowering(_compute_capability_p, _lower)
