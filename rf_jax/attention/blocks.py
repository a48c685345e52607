"""Sequences cut into blocks, so that memory is bounded."""

import jax
import jax.numpy as jnp


def split_blocks(x: jax.Array, largest: int) -> jax.Array:
    """[B, T, nh, hd] -> [blocks, B, nh, t, hd], zero-padded; t is at most `largest`."""
    batch, length, num_heads, head_dim = x.shape
    blocks = -(-length // largest)
    size = -(-length // blocks)
    x = jnp.pad(x, ((0, 0), (0, blocks * size - length), (0, 0), (0, 0)))
    return x.reshape(batch, blocks, size, num_heads, head_dim).transpose(1, 0, 3, 2, 4)


def join_blocks(x: jax.Array, length: int) -> jax.Array:
    """The inverse of `split_blocks`, for a sequence of that length."""
    blocks, batch, num_heads, size, head_dim = x.shape
    x = x.transpose(1, 0, 3, 2, 4).reshape(batch, blocks * size, num_heads, head_dim)
    return x[:, :length]
