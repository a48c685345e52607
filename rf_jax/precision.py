"""The precision of matrix products, said once: JAX's defaults differ between devices.

Products run in the type of their operands, float32 at its full precision (no TF32, no bfloat16
passes); norms, softmax statistics, angles and the residual stream are float32 always.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax


def matmul_precision(dtype: Any) -> lax.Precision:
    """The `precision` of products whose operands have this type."""
    return lax.Precision.DEFAULT if jnp.dtype(dtype).itemsize == 2 else lax.Precision.HIGHEST


def float32_product(dtype: Any) -> dict[str, Any]:
    """Arguments of einsum and dot_general for operands of this type and a float32 result.

    (float64 stays float64: tests run the network in it.)
    """
    result = jnp.promote_types(dtype, jnp.float32)
    return dict(precision=matmul_precision(dtype), preferred_element_type=result)
