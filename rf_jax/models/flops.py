"""Floating-point operations of the network, a multiply-add counted as two.

Counts what must be done for the valid tokens: no padding, no element-wise work.
"""

from rf_jax.models import RenderFormerConfig
from rf_jax.models.config import WINDOW_SIZE
from rf_jax.structs import NUM_CHANNELS


def view_independent_flops(config: RenderFormerConfig, num_triangles: int) -> float:
    """The first stage with one material value a triangle: L (8 S w^2 + 6 S w f + 4 S^2 w).

    Random features of r draws replace the last term by 8 S r w.
    """
    width, ffn = config.latent_dim, config.dim_feedforward
    tokens = num_triangles + config.num_register_tokens
    products = 3 if config.activation == "swiglu" else 2
    layer = 8 * tokens * width**2 + 2 * products * tokens * width * ffn
    layer += _attention_flops(
        config, config.view_independent_attention, tokens, tokens, width, config.num_heads
    )
    inputs = NUM_CHANNELS + (9 * (1 + 2 * config.vn_pe_num_freqs) if config.use_vn_encoder else 0)
    return config.num_layers * layer + 2 * inputs * width * num_triangles


def context_flops(config: RenderFormerConfig, num_triangles: int) -> float:
    """Keys and values of the second stage, once a scene: L (2 S w' w + 2 S w' w)."""
    tokens = num_triangles + config.num_register_tokens
    layer = 4 * tokens * config.latent_dim * config.view_transformer_latent_dim
    return config.view_transformer_n_layers * layer


def view_flops(config: RenderFormerConfig, num_triangles: int, resolution: int) -> float:
    """One view of an encoded scene, the decoder included."""
    width, ffn = config.view_transformer_latent_dim, config.view_transformer_ffn_hidden_dim
    tokens = num_triangles + config.num_register_tokens
    rays = (resolution // config.patch_size) ** 2
    products = 3 if config.activation == "swiglu" else 2
    heads, name = config.view_transformer_n_heads, config.view_dependent_attention
    layer = 4 * rays * width**2 + 2 * products * rays * width * ffn
    layer += _attention_flops(config, name, rays, tokens, width, heads)
    if config.view_transformer_include_self_attn:
        layer += 8 * rays * width**2
        if config.view_transformer_use_swin_attn:
            layer += 4 * rays * WINDOW_SIZE**2 * width
        else:
            layer += _attention_flops(config, name, rays, rays, width, heads)
    return config.view_transformer_n_layers * layer + _decoder_flops(config, rays)


def _attention_flops(config, name, queries, keys, width, heads) -> float:
    """Scores and weighted values; or features of both sides and their two products."""
    if name != "performer":
        return 4 * queries * keys * width
    draws = config.performer.num_draws(width // heads)
    features = 2 * draws if config.performer_hyperbolic else draws
    return 2 * (queries + keys) * (draws + features) * width


def _decoder_flops(config: RenderFormerConfig, rays: int) -> float:
    """`rays` patches through the decoder; convolutions k x k cost 2 k^2 inputs outputs a pixel."""
    width, features = config.view_transformer_latent_dim, config.dpt_features
    if not config.use_dpt_decoder:
        return 2 * rays * width * config.patch_size**2 * config.image_channels
    total = 0.0
    for i, channels in enumerate(config.dpt_out_channels):
        pixels = rays * (16, 4, 1, 0.25)[i]
        total += 2 * rays * width * channels + 18 * pixels * channels * features
        # Transposed convolutions see each output pixel once, the strided one 9 inputs.
        total += 2 * pixels * channels**2 * (1, 1, 0, 9)[i]
        units = 1 if i == 3 else 2
        total += units * 2 * 18 * pixels * features**2 + 2 * pixels * features**2
    total += 18 * 64 * rays * features * (features // 2)
    total += 64 * rays * (18 * (features // 2) * 32 + 2 * 32 * config.image_channels)
    return total
