"""Layers shared by both stages; `dtype` is the type of matrix products (see `precision`)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.precision import matmul_precision

INNER_NORM_EPS = 1e-6
"""Norms inside transformer layers."""

xavier_uniform = nn.initializers.xavier_uniform()


def linear(features: int, dtype: jnp.dtype, name: str, use_bias: bool = False) -> nn.Dense:
    """x [..., i] -> [..., features], computed in `dtype`."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=xavier_uniform,
        name=name,
    )


def norm(norm_type: str, name: str, eps: float | None = INNER_NORM_EPS) -> Callable:
    """RMS or layer norm over the last axis, in the type of its gain (float32); "none" does nothing.

    eps=None takes PyTorch's default, which the published encoders use.
    """
    if norm_type == "none":
        return lambda x: x
    if norm_type == "rms_norm":
        eps = np.finfo(np.float32).eps if eps is None else eps
        return nn.RMSNorm(epsilon=eps, name=name)
    eps = 1e-5 if eps is None else eps
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)


class FeedForward(nn.Module):
    """W2(silu(W1 x) * W3 x), or W2 gelu(W1 x)."""

    hidden_dim: int
    activation: str
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = linear(self.hidden_dim, self.dtype, "w1", self.use_bias)(x)
        if self.activation == "swiglu":
            hidden = nn.silu(hidden) * linear(self.hidden_dim, self.dtype, "w3", self.use_bias)(x)
        else:
            hidden = nn.gelu(hidden, approximate=False)
        return linear(x.shape[-1], self.dtype, "w2", self.use_bias)(hidden)


def resize_align_corners(x: jax.Array, side: int) -> jax.Array:
    """Bilinear resize of [B, h, w, C] to [B, side, side, C] whose corner pixels keep their values.

    (jax.image.resize aligns pixel edges instead.)
    """
    return _resize_axis(_resize_axis(x, 1, side), 2, side)


def _resize_axis(x: jax.Array, axis: int, size: int) -> jax.Array:
    old = x.shape[axis]
    if size == old:
        return x
    source = np.arange(size) * ((old - 1) / max(size - 1, 1))
    low = np.minimum(source.astype(np.int32), old - 1)
    high = np.minimum(low + 1, old - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = jnp.asarray((source - low).reshape(shape), x.dtype)
    return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
