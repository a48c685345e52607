"""The encoder of the Qwen-Image variational autoencoder, for single images.

RenderFormer V2 reads materials and environment maps as latents of this network. The published one
encodes videos with causal 3D convolutions. Before a single image there are no frames, so only the
last temporal slice of each kernel meets anything but zeros, and the network is one of 2D
convolutions.

Modules have the published names, with "_" for the "." before a number.
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.precision import matmul_precision
from rf_jax.schema import LayerCount, Limit, Size

# More is a mistake, which is better reported than built.
Factors = Annotated[tuple[Size, ...], Limit("of at most 8 entries", lambda x: len(x) <= 8)]

NAME = "vae_encoder"
"""Its name beside the mappers (`rf_jax.models.material_mapper`)."""

_EXACT = matmul_precision(jnp.float32)


@dataclasses.dataclass(frozen=True)
class VaeEncoderConfig:
    """Sizes of the encoder; the defaults are the published ones, with 19.3 million parameters (53.6
    million with the temporal slices of the published file).

    Attributes:
      base_dim: channels of the first level.
      dim_mult: channels of each level, in units of `base_dim`. Between two levels the image is
        halved.
      num_res_blocks: residual blocks of each level.
      z_dim: channels of the latent.
    """

    base_dim: Size = 96
    dim_mult: Factors = (1, 2, 4, 4)
    num_res_blocks: LayerCount = 2
    z_dim: Size = 16

    @property
    def reduction(self) -> int:
        """Pixels per side that one latent pixel stands for."""
        return 2 ** (len(self.dim_mult) - 1)


class VaeEncoder(nn.Module):
    """Images to the means of their latents, in float32."""

    config: VaeEncoderConfig = VaeEncoderConfig()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images.

        Args:
          images: [B, H, W, 3] in about [-1, 1]; H and W are multiples of `config.reduction`.

        Returns:
          [B, H / reduction, W / reduction, z_dim] means, which are not normalised.
        """
        config = self.config
        hidden = _Encoder(config, name="encoder")(images)
        moments = _conv(2 * config.z_dim, 1, "quant_conv")(hidden)
        return moments[..., : config.z_dim]


class _Encoder(nn.Module):
    config: VaeEncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, index = self.config, 0
        widths = [config.base_dim * factor for factor in config.dim_mult]
        x = _conv(widths[0], 3, "conv_in")(x)
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                x = _Residual(width, name=f"down_blocks_{index}")(x)
                index += 1
            if level < len(widths) - 1:
                x = _Halve(name=f"down_blocks_{index}")(x)
                index += 1
        x = _Middle(name="mid_block")(x)
        x = nn.silu(_ChannelNorm(name="norm_out")(x))
        return _conv(2 * config.z_dim, 3, "conv_out")(x)


class _Residual(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.silu(_ChannelNorm(name="norm1")(x))
        y = _conv(self.width, 3, "conv1")(y)
        y = nn.silu(_ChannelNorm(name="norm2")(y))
        y = _conv(self.width, 3, "conv2")(y)
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, "conv_shortcut")(x)
        return x + y


class _Halve(nn.Module):
    """A convolution of stride 2, with zeros behind the last row and column only."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 1))
        return _conv(x.shape[-1], 3, "resample_1", strides=(2, 2), padding=padding)(x)


class _Middle(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = _Residual(width, name="resnets_0")(x)
        x = x + _PixelAttention(name="attentions_0")(x)
        return _Residual(width, name="resnets_1")(x)


class _PixelAttention(nn.Module):
    """One head of attention among all pixels of an image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, channels = x.shape[1:]
        qkv = _conv(3 * channels, 1, "to_qkv")(_ChannelNorm(name="norm")(x))
        query, key, value = jnp.split(qkv.reshape(len(x), height * width, 3 * channels), 3, -1)
        logits = jnp.einsum("bic,bjc->bij", query, key, precision=_EXACT) * channels**-0.5
        mixed = jnp.einsum("bij,bjc->bic", nn.softmax(logits), value, precision=_EXACT)
        return _conv(channels, 1, "proj")(mixed.reshape(x.shape))


class _ChannelNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma, where |x| is the length over the channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        gamma = self.param("gamma", nn.initializers.ones, (channels,))
        length = jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return x / length * channels**0.5 * gamma


def _conv(features: int, size: int, name: str, **options) -> nn.Conv:
    return nn.Conv(features, (size, size), precision=_EXACT, name=name, **options)
