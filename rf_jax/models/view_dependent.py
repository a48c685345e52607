"""View-dependent stage: patches of rays read the triangle tokens (RenderFormer, section 3.3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.models.config import RenderFormerConfig, TransformerConfig
from rf_jax.models.dpt import DPTDecoder
from rf_jax.models.encodings import nerf_encoding, rope_frequencies, rope_rotation
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

    def setup(self):
        config, transformer = self.config, self.transformer
        width = transformer.width
        self.context = context_projections(transformer, self.dtype)
        self.layers = decoder_layers(
            transformer,
            self.dtype,
            config.view_transformer_include_self_attn,
            config.windowed,
            self.remat,
            self.is_initializing(),
        )
        self.ray_encoder = linear(width, self.dtype, None, use_bias=True)
        self.ray_encoder_norm = norm(config.norm_type, None, eps=None)
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
                rope_frequencies,
                transformer.rope_dim,
                config.rope_double_max_freq,
            )
        self.decoder = self._make_decoder()

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

    def project_context(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [L, B, S, nh, hd] of all layers, from tokens [B, S, D]."""
        return self.context(None, tokens)[1]

    def encode_positions(self, positions):
        """Encodes positions [B, ..., 9] as [B, ..., D]; only for `pe_type` "nerf"."""
        encoded = nerf_encoding(positions, self.config.vertex_pe_num_freqs)
        return self.position_encoder_norm(self.position_encoder(encoded))

    def __call__(
        self,
        keys: jax.Array,  # [L, B, S, nh, hd], or with B V rows if they depend on the view
        values: jax.Array,  # the shape of keys
        positions: jax.Array,  # [B V, S, 9] of the tokens, in the frame of the rays
        ray_map: jax.Array,  # [B V, H, H, 3] unit directions
        origin: jax.Array | None,  # [B V, 3] of the rays; None in camera space, where it is 0
        key_lengths: jax.Array,  # [B V] number of valid tokens
    ) -> tuple[jax.Array, jax.Array]:
        """Renders views.

        Returns:
          image: [B V, H, H, C] float32, after the last activation.
          taps: [taps, B V, P, D], what the decoder read.
        """
        config = self.config
        x = self._embed(ray_map)
        query_rotation = key_rotation = None
        if config.pe_type == "nerf":
            origin = jnp.zeros((x.shape[0], 3)) if origin is None else origin
            x = x + self.encode_positions(_ray_positions(origin))
        else:
            head_dim, frequencies = self.transformer.head_dim, self.rope_frequencies.value
            key_rotation = rope_rotation(positions, frequencies, head_dim)
            if origin is not None:
                query_rotation = rope_rotation(_ray_positions(origin), frequencies, head_dim)
        inputs = (keys, values), query_rotation, key_rotation, key_lengths
        stream = run_decoder_layers(self.layers, config.windowed, x, *inputs)
        taps = stream[np.asarray(config.taps)]
        image = self._decode(taps)
        image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        return nn.elu(image, OUTPUT_ELU_ALPHA), taps

    def _embed(self, ray_map):
        """Ray tokens [B V, P, D] of directions [B V, H, H, 3]."""
        size = self.config.patch_size
        side = ray_map.shape[1] // size
        rays = nerf_encoding(ray_map, self.config.vdir_num_freqs)
        rays = rays.reshape(-1, side, size, side, size, rays.shape[-1])
        rays = rays.transpose(0, 1, 3, 5, 2, 4).reshape(rays.shape[0], side**2, -1)
        return self.ray_token + self.ray_encoder_norm(self.ray_encoder(rays))

    def _decode(self, taps):
        """Taps [taps, B V, P, D] -> [B V, H, H, C] before the last activation."""
        config = self.config
        side = round(taps.shape[2] ** 0.5)
        if config.use_dpt_decoder:
            return self.decoder(taps.reshape(*taps.shape[:2], side, side, -1))
        size, channels = config.patch_size, config.image_channels
        pixels = self.decoder(taps[-1]).reshape(-1, side, side, channels, size, size)
        image = pixels.transpose(0, 1, 4, 2, 5, 3)  # (B V, h, size, w, size, C)
        return image.reshape(-1, side * size, side * size, channels)


def _ray_positions(origin):
    """Positions [B V, 1, 9] of ray tokens: the origin [B V, 3] in place of all three vertices."""
    return jnp.tile(origin[:, None], (1, 1, 3))
