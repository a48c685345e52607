"""The fastest exact attention of the device that a program is lowered for."""

import jax
import jax.numpy as jnp

from rf_jax.attention import cudnn, dot_product
from rf_jax.attention.exact import attend, by_capability, by_platform
from rf_jax.attention.registry import Attention


def auto_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """Uses cuDNN for 16-bit types on NVIDIA GPUs that have it, and otherwise `dot_product`.

    See `rf_jax.attention` for the contract.
    """
    if key_lengths is None:
        key_lengths = jnp.full((key.shape[0],), key.shape[1], jnp.int32)
    head_dim = query.shape[-1]
    kernels = HALF_KERNELS if cudnn.takes(query.dtype, head_dim) else dot_product.KERNELS
    return attend(kernels, head_dim**-0.5, query, key, value, key_lengths)[0]


HALF_KERNELS = by_platform(
    cuda=by_capability(
        lambda capability: capability >= cudnn.LEAST_CAPABILITY,
        cudnn.KERNELS,
        dot_product.GPU_KERNELS,
    ),
    cpu=dot_product.CPU_KERNELS,
    default=dot_product.GPU_KERNELS,
)

AUTO = Attention("auto", auto_attention, exact=True, rows_per_device=True)
