"""Cutting sequences into blocks, which are processed one after the other to bound memory."""

import jax
import jax.numpy as jnp


def split_blocks(x: jax.Array, largest: int) -> jax.Array:
    """Cuts [B, T, nh, hd] into equal blocks of at most `largest` tokens, zero-padded at the end.

    Returns:
      [blocks, B, nh, t, hd].
    """
    batch, length, num_heads, head_dim = x.shape
    blocks = -(-length // largest)
    size = -(-length // blocks)
    x = jnp.pad(x, ((0, 0), (0, blocks * size - length), (0, 0), (0, 0)))
    return x.reshape(batch, blocks, size, num_heads, head_dim).transpose(1, 0, 3, 2, 4)


def join_blocks(x: jax.Array, length: int) -> jax.Array:
    """Undoes `split_blocks`: [blocks, B, nh, t, hd] -> [B, length, nh, hd]."""
    blocks, batch, num_heads, size, head_dim = x.shape
    x = x.transpose(1, 0, 3, 2, 4).reshape(batch, blocks * size, num_heads, head_dim)
    return x[:, :length]
