"""Attention through a few latents, linear in the number of tokens.

Every head has M learned latents. They read all keys by softmax, and the tokens read them in turn:

    z = softmax(latents key^T / sqrt(hd)) value        [M, hd]
    out = softmax(query latents^T / sqrt(hd)) z        [S, hd]

This is FLARE (arXiv 2508.12594), except that its tokens read the latents with their keys, and here
with their queries. Both steps are exact attention. A head's matrix of weights has rank M at most.
The order of the tokens does not matter. 8 S M w operations take the place of 4 S^2 w.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from rf_jax.attention.auto import auto_attention
from rf_jax.attention.registry import Attention
from rf_jax.schema import Size, check_fields


@dataclasses.dataclass(frozen=True)
class LatentOptions:
    """Options of the attention.

    Attributes:
      latents: M, per head.
      rotated: whether RoPE turns queries and keys, which meet latents that it does not turn, so
        that the result depends on the origin of space. Without, only values can carry positions, in
        networks with `rotate_values`.
    """

    latents: Size = 128
    rotated: bool = True

    def __post_init__(self):
        check_fields(self)


class LatentAttention(nn.Module):
    """Attention through learned latents; see `rf_jax.attention` for the contract."""

    options: LatentOptions

    @nn.compact
    def __call__(self, query, key, value, key_lengths=None):
        batch, _, *head = query.shape
        shape = (self.options.latents, *head)
        latents = self.param("latents", nn.initializers.normal(1.0), shape, jnp.float32)
        latents = jnp.broadcast_to(latents.astype(query.dtype), (batch, *shape))
        read = auto_attention(latents, key, value, key_lengths)
        return auto_attention(query, latents, read)


def latent_flops(
    queries: int, keys: int, width: int, num_heads: int, options: LatentOptions
) -> float:
    """Floating-point operations of both steps."""
    return 4 * (queries + keys) * options.latents * width


LATENT = Attention(
    "latent",
    LatentAttention,
    options=LatentOptions(),
    has_variables=True,
    rows_per_device=True,
    self_only=True,
    flops=latent_flops,
)
