"""Positional encodings in float32: that of NeRF, and the rotary embedding of triangle positions."""

import jax
import jax.numpy as jnp
import numpy as np


def nerf_encoding(x: jax.Array, num_frequencies: int) -> jax.Array:
    """[x, sin(x f), cos(x f)] with f = 2^linspace(0, F-1, F) (NeRF, eq. 4, without pi).

    Args:
      x: [..., n], of any unit.
      num_frequencies: F; 0 returns x as it is.

    Returns:
      [..., n (1 + 2F)]; each block is ordered by component first, then by frequency.
    """
    if num_frequencies == 0:
        return x
    frequencies = np.exp2(np.linspace(0, num_frequencies - 1, num_frequencies))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    phases = x[..., None] * jnp.asarray(frequencies, dtype)  # (..., n, F)
    phases = phases.reshape(*x.shape[:-1], -1)  # (..., n F)
    return jnp.concatenate([x, jnp.sin(phases), jnp.sin(phases + jnp.pi / 2)], axis=-1)


def rope_frequencies(rope_dim: int, double_max_frequency: bool) -> np.ndarray:
    """The RoPE frequencies [m] of a fresh network, with m = rope_dim / 2.

    They are evenly spaced in log2 from 1 to m - 1, or to 2m - 1 with `double_max_frequency`.
    """
    m = rope_dim // 2
    highest = 2 * m - 1 if double_max_frequency else m - 1
    return np.exp2(np.linspace(0, np.log2(max(highest, 1)), m)).astype(np.float32)


Rotation = tuple[jax.Array, jax.Array]
"""Cosines and sines [B, S, 1, hd/2] of a rotary embedding."""


def rope_rotation(positions: jax.Array, frequencies: jax.Array, head_dim: int) -> Rotation:
    """The rotation of heads by positions (RenderFormer, section 3.3).

    Args:
      positions: [B, S, n] in any space: with n = 9 the three vertices (v0x, v0y, v0z, v1x, ...) of
        triangles, with n = 3 the centres of V2's tokens.
      frequencies: [m] with n m <= head_dim / 2.
      head_dim: width of a head.

    Returns:
      cosines and sines [B, S, 1, hd/2] in float32 at least; components from n m on do not turn.
    """
    positions = positions.astype(jnp.promote_types(positions.dtype, jnp.float32))
    angles = positions[..., None] * frequencies  # (B, S, n, m)
    angles = angles.reshape(*positions.shape[:-1], 1, -1)
    padding = head_dim // 2 - angles.shape[-1]
    angles = jnp.pad(angles, ((0, 0), (0, 0), (0, 0), (0, padding)))
    return jnp.cos(angles), jnp.sin(angles)


def inverse(rotation: Rotation) -> Rotation:
    """The rotation that undoes another."""
    cos, sin = rotation
    return cos, -sin


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates the pairs (i, i + hd/2) of heads [B, S, nh, hd].

    Computes in float32 at least and returns the type of x.
    """
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
