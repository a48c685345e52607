"""View-independent stage: triangle tokens exchange light (RenderFormer, section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.attention import Sinks
from rf_jax.models.config import RenderFormerConfig, TransformerConfig
from rf_jax.models.encodings import nerf_encoding, rope_frequencies, rope_rotation
from rf_jax.models.layers import linear, norm, xavier_uniform
from rf_jax.models.stacks import encoder_layers
from rf_jax.precision import matmul_precision
from rf_jax.structs import EMISSION, NUM_CHANNELS, texel_mask


class TextureEncoder(nn.Module):
    """One linear layer on the texture patch of a triangle."""

    features: int
    patch_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, texture: jax.Array) -> jax.Array:
        """Patches [B, N, 13, T, T], or one value per triangle [B, N, 13] -> [B, N, D].

        For a patch of one value it is enough to multiply that value by the sum of the weights over
        the texels that the triangle covers: 13 inputs instead of 13 T T.
        """
        shape = (NUM_CHANNELS * self.patch_size**2, self.features)
        kernel = self.param("kernel", xavier_uniform, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if texture.ndim == 3:
            texels = kernel.reshape(NUM_CHANNELS, -1, self.features)
            texels = texels.astype(jnp.promote_types(texels.dtype, jnp.float32))
            kernel = texels[:, texel_mask(self.patch_size).reshape(-1)].sum(1)
        texture = texture.reshape(*texture.shape[:2], -1)
        product = jnp.dot(
            texture.astype(self.dtype),
            kernel.astype(self.dtype),
            precision=matmul_precision(self.dtype),
        )
        return product + bias


class ViewIndependentStage(nn.Module):
    """Triangles, normals and materials -> tokens that know the light transport in the scene."""

    config: RenderFormerConfig
    transformer: TransformerConfig
    dtype: jnp.dtype
    remat: bool = False  # the gradient computes each layer again instead of storing it
    unroll: bool = False  # loops over layers are unrolled

    @nn.compact
    def __call__(
        self,
        positions: jax.Array,  # [B, R + N, 9], made by `token_positions`
        vertex_normals: jax.Array,  # [B, N, 9]
        texture: jax.Array,  # [B, N, 13] or [B, N, 13, T, T], emission log-encoded
        num_triangles: jax.Array,  # [B] int32; the triangles come first, padding last
    ) -> jax.Array:
        """Returns tokens [B, R + N, D] in float32; the values of padding tokens are not used."""
        registers = self.config.num_register_tokens
        x = self._embed(positions[:, registers:], vertex_normals, texture)
        sinks = token_sinks(texture, registers, self.transformer.attention.most_lights)
        return self._exchange_light(x, positions, num_triangles + registers, sinks)

    def _exchange_light(self, x, positions, lengths, sinks):
        """All layers, on tokens [B, S, D] at positions [B, S, 9 or 3] of which some are valid."""
        config, transformer = self.config, self.transformer
        rotation = None
        if transformer.rope_dim:
            frequencies = self.variable(
                "constants",
                "rope_frequencies",
                rope_frequencies,
                transformer.rope_dim,
                config.rope_double_max_freq,
            )
            rotation = rope_rotation(positions, frequencies.value, transformer.head_dim)
        layers = encoder_layers(transformer, self.dtype, self.remat, "layers", self.unroll)
        x, _ = layers(x, rotation, lengths, sinks)
        return x

    def _embed(self, triangle_positions, vertex_normals, texture):
        """Register tokens and triangle tokens [B, R + N, D] before the first layer."""
        config, width = self.config, self.transformer.width
        normal_init = nn.initializers.normal(1.0)
        token = self.param("triangle_token", normal_init, (1, 1, width), jnp.float32)
        registers = self.param(
            "register_tokens", normal_init, (1, config.num_register_tokens, width), jnp.float32
        )
        encoder = TextureEncoder(
            width, config.texture_encode_patch_size, self.dtype, name="texture_encoder"
        )
        x = token + norm(config.texture_encoder_norm_type, "texture_encoder_norm", None)(
            encoder(texture)
        )
        norm_type = config.vn_encoder_norm_type
        if config.use_vn_encoder:
            encoded = nerf_encoding(vertex_normals, config.vn_pe_num_freqs)
            encoded = linear(width, self.dtype, "vertex_normal_encoder", use_bias=True)(encoded)
            x = x + norm(norm_type, "vertex_normal_encoder_norm", None)(encoded)
        if config.pe_type == "nerf":
            encoded = nerf_encoding(triangle_positions, config.vertex_pe_num_freqs)
            encoded = linear(width, self.dtype, "position_encoder", use_bias=True)(encoded)
            x = x + norm(norm_type, "position_encoder_norm", None)(encoded)
        registers = jnp.broadcast_to(registers, (x.shape[0], *registers.shape[1:]))
        return jnp.concatenate([registers, x], axis=1)


def token_sinks(texture, num_register_tokens: int, most_lights: int) -> Sinks:
    """The registers, and the triangles right after them that emit light.

    Args:
      texture: [B, N, 13] or [B, N, 13, T, T].
      num_register_tokens: R.
      most_lights: only so many triangles are looked at.
    """
    emission = texture[:, :most_lights, EMISSION]
    emits = (emission > 0).any(axis=tuple(range(2, emission.ndim)))  # (B, lights)
    lights = jnp.cumprod(emits, axis=1, dtype=jnp.int32).sum(1)
    return Sinks(num_register_tokens + lights, num_register_tokens + emits.shape[1])


def token_positions(triangles, num_triangles, num_register_tokens: int):
    """The positions of all tokens; those of registers are the mean of the valid triangles.

    Args:
      triangles: [B, N, 3, 3], padding last.
      num_triangles: [B], how many triangles are valid.
      num_register_tokens: R.

    Returns:
      [B, R + N, 9] float32.
    """
    center = jnp.tile(scene_center(triangles, num_triangles)[:, None], (1, num_register_tokens, 3))
    return jnp.concatenate([center, triangles.reshape(*triangles.shape[:2], 9)], axis=1)


def scene_center(triangles, num_triangles):
    """The mean [B, 3] of the valid vertices of triangles [B, N, 3, 3], padding last."""
    valid = jnp.arange(triangles.shape[1]) < num_triangles[:, None]
    weights = valid / (num_triangles[:, None] + 1e-5)
    vertices = jnp.einsum("bn,bnvc->bvc", weights, triangles, precision=jax.lax.Precision.HIGHEST)
    return vertices.mean(1)
