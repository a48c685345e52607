"""Summaries of blocks of tokens: one mean key and value for each."""

import jax
import jax.numpy as jnp

from rf_jax.attention.window import Shared


def block_summaries(
    key: jax.Array, value: jax.Array, starts: jax.Array, lengths: jax.Array, block: int
) -> Shared:
    """Keys and values that stand for whole blocks of a sequence.

    The score of a mean key is the mean of the scores of its tokens. With the logarithm of their
    number added, its weight is that of all of them, if their scores are the same, and otherwise
    less: softmax is convex. This stays true of rotated keys and values, because everything between
    the rotation and the scores is linear: the fast turns of tokens far apart average out.

    Args:
      key, value: [B, S, nh, hd].
      starts, lengths: [B]; tokens from start to length take part.
      block: tokens of a block. Blocks begin at the multiples of this, so that the first and the
        last that take part may have less.

    Returns:
      S / block entries, rounded up, each for one block.
    """
    batch, length = key.shape[:2]
    after = -length % block
    places = jnp.arange(length + after)
    member = (places >= starts[:, None]) & (places < lengths[:, None])  # (B, S)
    counts = member.reshape(batch, -1, block).sum(-1)

    def means(x):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = jnp.pad(x.astype(wide), ((0, 0), (0, after), (0, 0), (0, 0)))
        x = jnp.where(member[..., None, None], x, 0)
        totals = x.reshape(batch, -1, block, *x.shape[2:]).sum(2)
        return totals / jnp.maximum(counts, 1)[..., None, None]

    log_counts = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1)), -jnp.inf)
    wide = jnp.promote_types(key.dtype, jnp.float32)
    return Shared(
        means(key).astype(key.dtype), means(value).astype(value.dtype), log_counts.astype(wide)
    )
