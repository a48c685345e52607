"""Floating-point operations of the network, and the rate at which a device could do them.

A multiply-add counts as two operations. Only the products for valid tokens are counted, without
padding and element-wise work.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rf_jax.attention import Sinks
from rf_jax.models.config import WINDOW_SIZE, RenderFormerConfig, TransformerConfig
from rf_jax.precision import matmul_precision
from rf_jax.structs import NUM_CHANNELS

ENVIRONMENT_TOKENS = 64
"""Tokens of an environment map of the published size, 256x512."""

MIN_SECONDS = 0.01
"""Least duration of a measurement of the product rate: a shorter one would time its launch."""

REPETITIONS = 5
"""Measurements of the product rate, of which the fastest counts."""


class TokenCounts(NamedTuple):
    """How many tokens a scene has, and how many of them are sinks."""

    tokens: int
    sinks: int


def token_counts(
    config: RenderFormerConfig, num_triangles: int, num_lights: int = 1
) -> TokenCounts:
    """The tokens of a scene without volumes.

    Args:
      config: the network.
      num_triangles: those that emit included.
      num_lights: how many emit.
    """
    registers = config.num_register_tokens
    if config.v2 is None:
        lights = min(num_lights, config.view_independent.attention.most_lights)
        return TokenCounts(registers + num_triangles, registers + lights)
    normal = num_triangles - num_lights
    environment = ENVIRONMENT_TOKENS if config.v2.use_env_lighting else 0
    sinks = registers + environment + normal // config.v2.summary_block_size + num_lights
    return TokenCounts(sinks + normal, sinks)


def view_independent_flops(
    config: RenderFormerConfig, num_triangles: int, num_lights: int = 1
) -> float:
    """The view-independent stage, for a scene with one material value per triangle.

    That is L (8 S w^2 + 6 S w f + 4 S^2 w) and the input encoders, with width w and feed-forward
    width f. The second term is that of SwiGLU, and the last that of exact attention; other
    attention functions count their own. What V2 encodes once per material or for the environment is
    left out.
    """
    stage = config.view_independent
    layer = sum(layer_flops(config, token_counts(config, num_triangles, num_lights)))
    inputs = NUM_CHANNELS if config.v2 is None else 3 + 9 * (1 + 2 * config.vertex_pe_num_freqs)
    inputs += 9 * (1 + 2 * config.vn_pe_num_freqs) if config.use_vn_encoder else 0
    return stage.depth * layer + 2 * inputs * stage.width * num_triangles


def layer_flops(config: RenderFormerConfig, counts: TokenCounts) -> tuple[float, float]:
    """One layer of the view-independent stage: its linear layers, and its attention."""
    stage, (tokens, sinks) = config.view_independent, counts
    linear = 8 * tokens * stage.width**2 + _feed_forward_flops(stage, tokens)
    sinks = Sinks(sinks, sinks, summarised=config.v2 is not None)
    return linear, _attention_flops(stage, tokens, tokens, sinks)


def context_flops(config: RenderFormerConfig, num_triangles: int, num_lights: int = 1) -> float:
    """Keys and values of the view-dependent stage, once per scene: 4 L S w' w.

    The tokens have width w', and the keys and values w.
    """
    stage, (tokens, _) = config.view_dependent, token_counts(config, num_triangles, num_lights)
    return stage.depth * 4 * tokens * config.latent_dim * stage.width


def view_flops(
    config: RenderFormerConfig, num_triangles: int, resolution: int, num_lights: int = 1
) -> float:
    """One view of an encoded scene, the decoder included."""
    stage, (tokens, _) = config.view_dependent, token_counts(config, num_triangles, num_lights)
    rays = (resolution // config.patch_size) ** 2
    layer = 4 * rays * stage.width**2 + _feed_forward_flops(stage, rays)
    layer += _attention_flops(stage, rays, tokens)
    if config.view_transformer_include_self_attn:
        layer += 8 * rays * stage.width**2
        if config.windowed:
            layer += 4 * rays * WINDOW_SIZE**2 * stage.width
        else:
            layer += _attention_flops(stage, rays, rays)
    return stage.depth * layer + _decoder_flops(config, rays)


def _feed_forward_flops(stage: TransformerConfig, tokens: int) -> float:
    products = 3 if stage.activation == "swiglu" else 2
    return 2 * products * tokens * stage.width * stage.hidden_dim


def _attention_flops(
    stage: TransformerConfig, queries: int, keys: int, sinks: Sinks | None = None
) -> float:
    attention = stage.attention
    more = (sinks,) if attention.reads_sinks else ()
    return attention.flops(queries, keys, stage.width, stage.num_heads, attention.options, *more)


def _decoder_flops(config: RenderFormerConfig, rays: int) -> float:
    """`rays` patches through the decoder; a k x k convolution costs 2 k^2 C_in C_out per pixel."""
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


def measure_product_rate(
    config: RenderFormerConfig, tokens: int, dtype: Any, sharding: Any = None
) -> float:
    """FLOP/s of products like those in the feed-forward networks of the view-independent stage.

    They are [S, w] x [w, f] and back, on random data. The fastest of `REPETITIONS` measurements
    counts. Each runs as many products within one compiled program as take `MIN_SECONDS`.

    Args:
      config: the network, with width w and feed-forward width f.
      tokens: S.
      dtype: the type of the operands.
      sharding: how the rows are split over devices, whose rates add up; None takes one device.
    """
    width, ffn = config.latent_dim, config.dim_feedforward
    rngs = jax.random.split(jax.random.key(0))
    x = jax.device_put(jax.random.normal(rngs[0], (tokens, width), dtype), sharding)
    # Orthogonal weights keep the values in range, however often they multiply.
    weights = jax.nn.initializers.orthogonal()(rngs[1], (width, ffn)).astype(dtype)
    pairs = 1
    _seconds(x, weights, pairs)  # compiles
    while (seconds := _seconds(x, weights, pairs)) < MIN_SECONDS:
        pairs *= 2
    seconds = min(seconds, *(_seconds(x, weights, pairs) for _ in range(REPETITIONS - 1)))
    return pairs * 4 * tokens * width * ffn / seconds


def _seconds(x, weights, pairs) -> float:
    start = time.perf_counter()
    _products(x, weights, pairs).block_until_ready()
    return time.perf_counter() - start


@jax.jit
def _products(x, weights, pairs):
    """Multiplies x [S, w] by weights [w, f] and their transpose, `pairs` times.

    Each product needs the one before, so that the compiler cannot take any out of the loop.
    """
    precision = matmul_precision(x.dtype)

    def multiply(_, x):
        return jnp.dot(jnp.dot(x, weights, precision=precision), weights.T, precision=precision)

    return jax.lax.fori_loop(0, pairs, multiply, x)
