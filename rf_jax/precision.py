"""The precision of matrix products, in one place, because JAX's defaults differ between devices.

Products run in the type of their operands; float32 products run at full precision (without TF32 or
bfloat16 passes). Norms, softmax statistics, angles and the residual stream are always float32.
Products inside of libraries (LPIPS, Muon) are told by `library_products`.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def matmul_precision(dtype: Any) -> lax.Precision:
    """The argument `precision` for products whose operands have this type."""
    return lax.Precision.DEFAULT if jnp.dtype(dtype).itemsize == 2 else lax.Precision.HIGHEST


def float32_product(dtype: Any) -> dict[str, Any]:
    """Arguments of einsum and dot_general for operands of this type and a float32 result.

    The result of float64 operands is float64, because tests run the network in that type.
    """
    result = jnp.promote_types(dtype, jnp.float32)
    return dict(precision=matmul_precision(dtype), preferred_element_type=result)


def library_products(precision: lax.Precision) -> contextlib.AbstractContextManager[None]:
    """A block in which products that are traced without a precision have this one.

    Libraries leave the precision to JAX, whose default is TF32 on NVIDIA GPUs.
    """
    return jax.default_matmul_precision(precision.name.lower())
