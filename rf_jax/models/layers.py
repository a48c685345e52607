"""Layers shared by both stages; `dtype` is the type of matrix products (`rf_jax.precision`)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.models.config import TransformerConfig
from rf_jax.models.products import flat_product, two_products
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
        dot_general=flat_product,
        name=name,
    )


class LinearWeights(nn.Module):
    """The parameters of a `linear` layer, for products that are not computed layer by layer."""

    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel [inputs, features], and the bias [features] if there is one."""
        kernel = self.param("kernel", xavier_uniform, (inputs, self.features), jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


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
    def __call__(self, x: jax.Array, turn: Callable | None = None) -> jax.Array:
        """[..., D] -> [..., D].

        With `turn`, a linear function of rows [..., D] -> [..., nh, hd], the result is that of
        turn(normed). Turned before they are divided by their roots, rows take one pass on GPUs.
        """
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, scale.dtype))
        inverse_root = jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.eps)
        if turn is not None:
            return turn(x * scale) * inverse_root[..., None]
        return x * inverse_root * scale


class FeedForward(nn.Module):
    """W2(silu(W1 x) * W3 x), or W2 gelu(W1 x)."""

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        config = self.config
        if config.activation == "swiglu":
            weights = (
                LinearWeights(config.hidden_dim, config.use_bias, name=name)(x.shape[-1])
                for name in ("w1", "w3")
            )
            x = x.astype(self.dtype)
            (w1, b1), (w3, b3) = jax.tree.map(lambda w: w.astype(self.dtype), tuple(weights))
            if config.swiglu is not None:
                w2, _ = LinearWeights(x.shape[-1], use_bias=False, name="w2")(config.hidden_dim)
                return config.swiglu(x, w1, w3, w2.astype(self.dtype))
            hidden, gate = two_products(x, w1, w3)
            hidden = nn.silu(hidden if b1 is None else hidden + b1)
            hidden = hidden * (gate if b3 is None else gate + b3)
        else:
            hidden = linear(config.hidden_dim, self.dtype, "w1", config.use_bias)(x)
            hidden = nn.gelu(hidden, approximate=False)
        return linear(x.shape[-1], self.dtype, "w2", config.use_bias)(hidden)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def resize_align_corners(x: jax.Array, side: int) -> jax.Array:
    """Bilinear resize of [B, h, w, C] to [B, side, side, C], where corner pixels keep their values.

    `jax.image.resize` would align the edges of the images instead. On NVIDIA GPUs pixels are sums
    of their neighbours, in one pass; elsewhere the resize consists of products with constant
    matrices. So does its gradient, because the gradient of a gather would be a scatter, which is
    slow and unordered on GPUs.
    """
    if x.shape[1:3] == (side, side):
        return x
    by_neighbours, by_products = (
        functools.partial(f, side=side) for f in (resize_by_neighbours, resize_by_products)
    )
    return jax.lax.platform_dependent(x, cuda=by_neighbours, default=by_products)


def resize_by_products(x: jax.Array, side: int) -> jax.Array:
    """`resize_align_corners` as matrix products."""
    product = dict(precision=matmul_precision(x.dtype))
    if x.shape[1] != side:
        rows = jnp.asarray(interpolation_matrix(x.shape[1], side), x.dtype)
        x = jnp.einsum("ih,bhwc->biwc", rows, x, **product)
    if x.shape[2] != side:
        columns = jnp.asarray(interpolation_matrix(x.shape[2], side), x.dtype)
        x = jnp.einsum("jw,bhwc->bhjc", columns, x, **product)
    return x


def resize_by_neighbours(x: jax.Array, side: int) -> jax.Array:
    """`resize_align_corners` as weighted sums of four pixels, in float32 at least."""
    rows, columns = (_neighbours(size, side) for size in x.shape[1:3])
    total = 0.0
    for row, row_weight in rows:
        row_weight = jnp.asarray(row_weight, jnp.float32)[:, None, None]
        for column, column_weight in columns:
            # Not one array of weights: a program would contain it, of the size of an image.
            pixels = x[:, row[:, None], column] * row_weight
            total += pixels * jnp.asarray(column_weight, jnp.float32)[:, None]
    return total.astype(x.dtype)


def _resize_forward(x, side):
    _, transpose = jax.vjp(functools.partial(resize_by_products, side=side), x)
    return resize_align_corners(x, side), transpose


resize_align_corners.defvjp(_resize_forward, lambda side, transpose, d_out: transpose(d_out))


def interpolation_matrix(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that interpolates evenly spaced samples linearly.

    The first old and new samples coincide, and so do the last.
    """
    matrix = np.zeros((new, old))
    for index, weight in _neighbours(old, new):
        matrix[np.arange(new), index] += weight
    return matrix


def _neighbours(old: int, new: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Index and weight [new] of the lower and of the higher of each new sample's neighbours."""
    source = np.arange(new) * ((old - 1) / max(new - 1, 1))
    low = np.minimum(source.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = source - low
    return (low, 1 - weight), (high, weight)
