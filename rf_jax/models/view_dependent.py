"""View-dependent stage: patches of rays read the triangle tokens (RenderFormer, section 3.3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.geometry import project_points
from rf_jax.models.config import RenderFormerConfig, TransformerConfig
from rf_jax.models.dpt import DPTDecoder
from rf_jax.models.encodings import nerf_encoding, rope_frequencies, rope_rotation, rotate
from rf_jax.models.layers import linear, norm
from rf_jax.models.stacks import context_projections, decoder_layers, run_decoder_layers
from rf_jax.precision import matmul_precision

OUTPUT_ELU_ALPHA = 1e-3
"""Alpha of the ELU that is applied to the image; it bounds how negative a pixel can be."""

FRESH_OUTPUT = 0.1
"""The log10(1 + radiance) of all pixels that a fresh linear decoder makes."""


class ViewDependentStage(nn.Module):
    """The tokens of a scene and the rays of a camera -> an image."""

    config: RenderFormerConfig
    transformer: TransformerConfig
    dtype: jnp.dtype
    remat: bool = False  # the gradient computes each layer again instead of storing it
    unroll: bool = False  # loops over layers are unrolled

    def setup(self):
        config, transformer = self.config, self.transformer
        width = transformer.width
        self.context = context_projections(transformer, self.dtype, self.unroll)
        self.layers = decoder_layers(
            transformer,
            self.dtype,
            config.view_transformer_include_self_attn,
            config.windowed,
            self.remat,
            self.is_initializing(),
            self.unroll,
        )
        self.ray_encoder = linear(width, self.dtype, None, use_bias=True)
        self.ray_encoder_norm = norm(config.norm_type, None, config.encoder_norm_eps)
        self.ray_token = self.param(
            "ray_token", nn.initializers.normal(1.0), (1, 1, width), jnp.float32
        )
        if config.pe_type == "nerf":
            self.position_encoder = linear(width, self.dtype, None, use_bias=True)
            self.position_encoder_norm = norm(config.norm_type, None, eps=None)
        else:
            self.rope_frequencies = self.variable(
                "constants",
                "rope_frequencies",
                self._fresh_frequencies,
            )
        self.decoder = self._make_decoder()

    def _fresh_frequencies(self):
        config = self.config
        if config.view_frequencies is not None:
            return np.asarray(config.view_frequencies, np.float32)
        return rope_frequencies(self.transformer.rope_dim, config.rope_double_max_freq)

    def _make_decoder(self):
        config = self.config
        if not config.use_dpt_decoder:
            pixels = config.patch_size**2 * config.image_channels
            # A fresh network renders an even dark grey, because the activation is flat below black.
            return nn.Dense(
                pixels,
                dtype=self.dtype,
                precision=matmul_precision(self.dtype),
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(FRESH_OUTPUT),
            )
        return DPTDecoder(config, self.dtype)

    def project_context(
        self, tokens: jax.Array, positions: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values [L, B, S, nh, hd] of all layers, from tokens [B, S, D].

        Keys are rotated by the positions [B, S, n] if these are given, because no view moves them.
        """
        keys, values = self.context(None, tokens)[1]
        return (keys if positions is None else rotate(keys, self._rotation(positions))), values

    def _rotation(self, positions):
        return rope_rotation(positions, self.rope_frequencies.value, self.transformer.head_dim)

    def encode_positions(self, positions):
        """Encodes positions [B, ..., 9] as [B, ..., D]; only for `pe_type` "nerf"."""
        encoded = nerf_encoding(positions, self.config.vertex_pe_num_freqs)
        return self.position_encoder_norm(self.position_encoder(encoded))

    def __call__(
        self,
        keys: jax.Array,  # [L, B, S, nh, hd], or with B V rows if they depend on the view
        values: jax.Array,  # the shape of keys
        positions: jax.Array | None,  # [B V, S, 9] of the tokens, in the frame of the rays; None
        # if the keys are rotated
        ray_map: jax.Array,  # [B V, H, H, 3] unit directions
        ray_positions: jax.Array | None,  # [B V, 1 or P, 3]; None when they are 0 and turn nothing
        key_lengths: jax.Array,  # [B V] valid tokens
    ) -> tuple[jax.Array, jax.Array]:
        """Renders views.

        Returns:
          image: [B V, H, H, C] float32, after the last activation.
          taps: [taps, B V, P, D], what the decoder read.
        """
        config = self.config
        x = self._embed(ray_map)
        query_rotation = key_rotation = None
        if ray_positions is not None:
            # In V1 a ray's position stands in all three vertex slots.
            ray_positions = jnp.tile(ray_positions, (1, 1, config.position_size // 3))
        if config.pe_type == "nerf":
            ray_positions = (
                jnp.zeros((x.shape[0], 1, 9)) if ray_positions is None else ray_positions
            )
            x = x + self.encode_positions(ray_positions)
        else:
            key_rotation = None if positions is None else self._rotation(positions)
            query_rotation = None if ray_positions is None else self._rotation(ray_positions)
        inputs = (keys, values), query_rotation, key_rotation, key_lengths
        stream = run_decoder_layers(self.layers, config.windowed, x, *inputs)
        taps = [stream[i] for i in config.taps]
        image = self._decode(taps)
        image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        return nn.elu(image, OUTPUT_ELU_ALPHA), jnp.stack(taps)

    def _embed(self, ray_map):
        """Ray tokens [B V, P, D] of directions [B V, H, H, 3]."""
        size = self.config.patch_size
        side = ray_map.shape[1] // size
        rays = nerf_encoding(ray_map, self.config.vdir_num_freqs)
        rays = rays.reshape(-1, side, size, side, size, rays.shape[-1])
        rays = rays.transpose(0, 1, 3, 5, 2, 4).reshape(rays.shape[0], side**2, -1)
        return self.ray_token + self.ray_encoder_norm(self.ray_encoder(rays))

    def _decode(self, taps):
        """Taps [B V, P, D] -> [B V, H, H, C] before the last activation."""
        config = self.config
        side = round(taps[0].shape[1] ** 0.5)
        if config.use_dpt_decoder:
            return self.decoder([tap.reshape(len(tap), side, side, -1) for tap in taps])
        size, channels = config.patch_size, config.image_channels
        pixels = self.decoder(taps[-1]).reshape(-1, side, side, channels, size, size)
        image = pixels.transpose(0, 1, 4, 2, 5, 3)  # (B V, h, size, w, size, C)
        return image.reshape(-1, side * size, side * size, channels)


def patch_centers(ray_map: jax.Array, fov_degrees: jax.Array, patch_size: int) -> jax.Array:
    """Centres of ray patches on the image: (u, v, 0) with u, v in [-1, 1] over the whole view.

    Args:
      ray_map: [B, H, H, 3] directions in camera space, of a whole view or of a crop.
      fov_degrees: [B].
      patch_size: pixels per side of a patch.

    Returns:
      [B, P, 3].
    """
    batch, side = ray_map.shape[0], ray_map.shape[1] // patch_size
    on_image = project_points(ray_map, fov_degrees[:, None, None])[..., :2]
    patches = on_image.reshape(batch, side, patch_size, side, patch_size, 2)
    centers = patches.mean((2, 4)).reshape(batch, side**2, 2)
    return jnp.pad(centers, ((0, 0), (0, 0), (0, 1)))
