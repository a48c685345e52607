"""Layers shared by both stages; `dtype` is the type of matrix products (`rf_jax.precision`)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.models.config import TransformerConfig
from rf_jax.precision import matmul_precision

INNER_NORM_EPS = 1e-6
"""Epsilon of the norms inside transformer layers."""

xavier_uniform = nn.initializers.xavier_uniform()


def linear(features: int, dtype: jnp.dtype, name: str, use_bias: bool = False) -> nn.Dense:
    """A linear layer that maps [..., i] to [..., features], computed in `dtype`."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=xavier_uniform,
        dot_general=_flat_product,
        name=name,
    )


def _flat_product(x, kernel, dimensions, **options):
    """x [..., i] times kernel [i, o], with the leading axes of x merged into one.

    XLA on CPUs computes the gradient of a kernel from several contracted axes at half the speed,
    because it first transposes the gradient of the result.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], -1)


def norm(norm_type: str, name: str, eps: float | None = INNER_NORM_EPS) -> Callable:
    """A norm over the last axis of x [..., D], computed in float32.

    Args:
      norm_type: "rms_norm", "layer_norm", or "none", which leaves x as it is.
      name: of the Linen module.
      eps: epsilon; None takes PyTorch's default, which the published encoders use.
    """
    if norm_type == "none":
        return lambda x: x
    if norm_type == "rms_norm":
        eps = np.finfo(np.float32).eps if eps is None else eps
        return RMSNorm(eps, name=name)
    eps = 1e-5 if eps is None else eps
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 at least.

    Flax multiplies the scale by the inverse root first, and then XLA takes two passes on GPUs.
    """

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, scale.dtype))
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.eps) * scale


class FeedForward(nn.Module):
    """W2(silu(W1 x) * W3 x), or W2 gelu(W1 x)."""

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        config = self.config
        hidden = linear(config.hidden_dim, self.dtype, "w1", config.use_bias)(x)
        if config.activation == "swiglu":
            gate = linear(config.hidden_dim, self.dtype, "w3", config.use_bias)(x)
            hidden = nn.silu(hidden) * gate
        else:
            hidden = nn.gelu(hidden, approximate=False)
        return linear(x.shape[-1], self.dtype, "w2", config.use_bias)(hidden)


def resize_align_corners(x: jax.Array, side: int) -> jax.Array:
    """Bilinear resize of [B, h, w, C] to [B, side, side, C], where corner pixels keep their values.

    `jax.image.resize` would align the edges of the images instead. The resize consists of products
    with constant matrices, because the gradient of a gather would be a scatter, which is slow and
    unordered on GPUs.
    """
    product = dict(precision=matmul_precision(x.dtype))
    if x.shape[1] != side:
        rows = jnp.asarray(interpolation_matrix(x.shape[1], side), x.dtype)
        x = jnp.einsum("ih,bhwc->biwc", rows, x, **product)
    if x.shape[2] != side:
        columns = jnp.asarray(interpolation_matrix(x.shape[2], side), x.dtype)
        x = jnp.einsum("jw,bhwc->bhjc", columns, x, **product)
    return x


def interpolation_matrix(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that interpolates evenly spaced samples linearly.

    The first old and new samples coincide, and so do the last.
    """
    source = np.arange(new) * ((old - 1) / max(new - 1, 1))
    low = np.minimum(source.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = source - low
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] += 1 - weight
    matrix[np.arange(new), high] += weight
    return matrix
