"""The DPT decoder, which makes an image of four taps of the view-dependent stage.

It follows Ranftl et al. 2021. A tap is the residual stream after some layer. Images are
[B, H, W, C]. Where a bilinear resize is followed by a 1x1 convolution, the two are swapped here:
they commute (the weights of the resize sum to one), and the convolution sees fewer pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.models.config import RenderFormerConfig
from rf_jax.models.layers import resize_align_corners
from rf_jax.precision import matmul_precision

HEAD_CHANNELS = 32
"""Channels before the last convolution."""

_UPSAMPLES = ("resample0", "resample1")
"""The `PatchUpsample`s, whose kernels have four axes too."""


def _uniform(fan_in: int):
    """PyTorch's default initializer of convolutions: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def conv(x, features, kernel_size, dtype, name, *, stride=1, use_bias=True, init=None):
    """Convolves x [B, H, W, C] with symmetric padding (k - 1) / 2.

    Returns:
      [B, H, W, features], with H and W divided by `stride` and rounded up.
    """
    init = init or _uniform(x.shape[-1] * kernel_size**2)
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=stride,
        padding=(kernel_size - 1) // 2,
        use_bias=use_bias,
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=init,
        bias_init=init,
        name=name,
    )(x)


def permute_filters(variables: dict[str, Any], axes: tuple[int, ...]) -> dict[str, Any]:
    """A network's variables with the axes of the decoder's convolution kernels permuted."""

    def permute(path, leaf):
        *modules, name = (getattr(key, "key", None) for key in path)
        is_filter = "decoder" in modules and name == "kernel" and modules[-1] not in _UPSAMPLES
        return leaf.transpose(axes) if is_filter and leaf.ndim == 4 else leaf

    return jax.tree_util.tree_map_with_path(permute, variables)


class PatchUpsample(nn.Module):
    """Transposed convolution with kernel = stride: a matrix product, then depth to space."""

    factor: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """[B, h, w, C] -> [B, h factor, w factor, C]."""
        batch, h, w, channels = x.shape
        k = self.factor
        init = _uniform(channels * k * k)
        kernel = self.param("kernel", init, (channels, k, k, channels), jnp.float32)
        bias = self.param("bias", init, (channels,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        x = jnp.einsum("bhwc,cijd->bhiwjd", x, kernel, precision=matmul_precision(self.dtype))
        return x.reshape(batch, h * k, w * k, channels) + bias


class ResidualConvUnit(nn.Module):
    """x + conv(silu(conv(silu(x))))."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """[B, H, W, features] -> [B, H, W, features]."""
        out = conv(nn.silu(x), self.features, 3, self.dtype, "conv1")
        return x + conv(nn.silu(out), self.features, 3, self.dtype, "conv2")


class Fusion(nn.Module):
    """Adds a finer level to the path from the coarser ones, refines the sum and resizes it."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, path, level, side):
        """Path (None at the coarsest level) and level [B, h, h, F] -> [B, side, side, F]."""
        if path is None:
            x = level
        else:
            x = path + ResidualConvUnit(self.features, self.dtype, name="level_unit")(level)
        x = ResidualConvUnit(self.features, self.dtype, name="unit")(x)
        x = conv(x, self.features, 1, self.dtype, "out")
        return resize_align_corners(x, side)


class DPTDecoder(nn.Module):
    """Four taps of the ray tokens -> the image."""

    config: RenderFormerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, taps):
        """Four taps [B, h, h, D] -> [B, h patch_size, h patch_size, C]."""
        side, features = taps[0].shape[1], self.config.dpt_features
        levels = [self._level(i, tap) for i, tap in enumerate(taps)]
        path = None
        for i, next_side in ((3, side), (2, 2 * side), (1, 4 * side), (0, 8 * side)):
            path = Fusion(features, self.dtype, name=f"fusion{i}")(path, levels[i], next_side)
        out = conv(path, features // 2, 3, self.dtype, "head1")
        out = resize_align_corners(out, side * self.config.patch_size)
        out = nn.silu(conv(out, HEAD_CHANNELS, 3, self.dtype, "head2"))
        # Zero at first, so that a fresh network renders black.
        zeros = nn.initializers.zeros
        return conv(out, self.config.image_channels, 1, self.dtype, "head3", init=zeros)

    def _level(self, i, tap):
        """Tap i as features [B, s, s, F], with s = 4 h, 2 h, h or h / 2 for i = 0, 1, 2 or 3."""
        channels = self.config.dpt_out_channels[i]
        x = conv(tap, channels, 1, self.dtype, f"project{i}")
        if i < 2:
            x = PatchUpsample(4 if i == 0 else 2, self.dtype, name=_UPSAMPLES[i])(x)
        elif i == 3:
            x = conv(x, channels, 3, self.dtype, "resample3", stride=2)
        return conv(x, self.config.dpt_features, 3, self.dtype, f"level{i}", use_bias=False)
