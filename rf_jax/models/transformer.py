"""Multi-head attention and the layers of both stages. Axes as in `rf_jax.structs`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.attention import AttentionFn, bind_attention
from rf_jax.models.config import WINDOW_SIZE
from rf_jax.models.encodings import rotate
from rf_jax.models.layers import FeedForward, linear, norm
from rf_jax.precision import float32_product


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[..., D] -> [..., nh, hd]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., nh, hd] -> [..., D]."""
    return x.reshape(*x.shape[:-2], -1)


class SelfAttention(nn.Module):
    """Tokens attend to tokens: all of them, or those of their window.

    Queries and keys are normed over the full width, before the split into heads.
    """

    num_heads: int
    norm_type: str  # of queries and keys; "none": not normed
    use_bias: bool
    dtype: jnp.dtype
    attention_fn: AttentionFn

    @nn.compact
    def __call__(self, x, rotation=None, key_lengths=None):
        """x [B, S, D]; rotation of queries and keys, or None; key_lengths [B] or None."""
        width = x.shape[-1]
        qkv = linear(3 * width, self.dtype, "qkv", self.use_bias)(x)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        query = norm(self.norm_type, "q_norm")(query).astype(self.dtype)
        key = norm(self.norm_type, "k_norm")(key).astype(self.dtype)
        query, key, value = (split_heads(t, self.num_heads) for t in (query, key, value))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        out = bind_attention(self.attention_fn)(query, key, value, key_lengths)
        return linear(width, self.dtype, "out", self.use_bias)(merge_heads(out))


class CrossAttention(nn.Module):
    """Ray tokens attend to the keys and values that `ContextProjection` made of the triangles."""

    num_heads: int
    norm_type: str
    use_bias: bool
    dtype: jnp.dtype
    attention_fn: AttentionFn

    @nn.compact
    def __call__(self, x, key, value, query_rotation, key_rotation, key_lengths):
        """Reads the scenes from their views.

        Args:
          x: [B V, P, D], the views of a scene one after the other.
          key, value: [B, S, nh, hd]; with B V rows when they depend on the view.
          query_rotation, key_rotation: of B V rows, or None.
          key_lengths: [B V].
        """
        width = x.shape[-1]
        views = x.shape[0] // key.shape[0]
        key, value = jnp.repeat(key, views, axis=0), jnp.repeat(value, views, axis=0)
        query = linear(width, self.dtype, "q_proj", self.use_bias)(x)
        query = norm(self.norm_type, "q_norm")(query).astype(self.dtype)
        query = split_heads(query, self.num_heads)
        if query_rotation is not None:
            query = rotate(query, query_rotation)
        if key_rotation is not None:
            key = rotate(key, key_rotation)
        out = bind_attention(self.attention_fn)(query, key, value, key_lengths)
        return linear(width, self.dtype, "out", self.use_bias)(merge_heads(out))


class ContextProjection(nn.Module):
    """The keys and values of one cross attention; they do not depend on the view."""

    width: int
    num_heads: int
    norm_type: str
    qk_norm_type: str
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens):
        """tokens [B, S, D'] -> tokens, (key, value) [B, S, nh, hd], keys normed, not rotated."""
        context = norm(self.norm_type, "norm")(tokens)
        key = linear(self.width, self.dtype, "k_proj", self.use_bias)(context)
        key = norm(self.qk_norm_type, "k_norm")(key).astype(self.dtype)
        value = linear(self.width, self.dtype, "v_proj", self.use_bias)(context)
        return tokens, (split_heads(key, self.num_heads), split_heads(value, self.num_heads))


class EncoderLayer(nn.Module):
    """Pre-norm layer of the view-independent stage; scanned over."""

    num_heads: int
    hidden_dim: int
    activation: str
    norm_type: str
    qk_norm_type: str
    use_bias: bool
    dtype: jnp.dtype
    attention_fn: AttentionFn

    @nn.compact
    def __call__(self, x, rotation, key_lengths):
        """x [B, S, D] float32 residual stream -> the same, None."""
        attention = SelfAttention(
            self.num_heads,
            self.qk_norm_type,
            self.use_bias,
            self.dtype,
            self.attention_fn,
            name="attention",
        )
        x = x + attention(norm(self.norm_type, "attention_norm")(x), rotation, key_lengths)
        ffn = FeedForward(self.hidden_dim, self.activation, self.use_bias, self.dtype, name="ffn")
        return x + ffn(norm(self.norm_type, "ffn_norm")(x)), None


class DecoderLayer(nn.Module):
    """Layer of the view-dependent stage: cross attention, self attention, feed-forward; scanned.

    Shifted windows (Swin, section 3.2) when `windowed`; full self attention needs no RoPE, because
    all rays share the camera's position and the rotation cancels in the scores.
    """

    num_heads: int
    hidden_dim: int
    activation: str
    norm_type: str
    qk_norm_type: str
    use_bias: bool
    include_self_attention: bool
    windowed: bool
    dtype: jnp.dtype
    attention_fn: AttentionFn

    @nn.compact
    def __call__(self, x, layer_inputs, query_rotation, key_rotation, key_lengths):
        """One layer.

        Args:
          x: [B V, P, D] float32 residual stream of ray tokens.
          layer_inputs: key, value [B, S, nh, hd] and the window shift (0 or 4 patches).
          query_rotation, key_rotation, key_lengths: as of `CrossAttention`.

        Returns:
          x, and x again: the stream that the decoder taps.
        """
        key, value, shift = layer_inputs
        normed = norm(self.norm_type, "cross_attention_norm")(x)
        cross = CrossAttention(*self._attention_fields(), self.attention_fn, name="cross_attention")
        x = x + cross(normed, key, value, query_rotation, key_rotation, key_lengths)
        if self.include_self_attention:
            normed = norm(self.norm_type, "self_attention_norm")(x)
            x = x + self._attend_to_rays(normed, shift)
        ffn = FeedForward(self.hidden_dim, self.activation, self.use_bias, self.dtype, name="ffn")
        x = x + ffn(norm(self.norm_type, "ffn_norm")(x))
        return x, x

    def _attention_fields(self):
        return self.num_heads, self.qk_norm_type, self.use_bias, self.dtype

    def _attend_to_rays(self, x, shift):
        fields, name = self._attention_fields(), "self_attention"
        if not self.windowed:
            return SelfAttention(*fields, self.attention_fn, name=name)(x)
        side = round(x.shape[1] ** 0.5)
        attention = SelfAttention(*fields, window_attention(shift, side), name=name)
        return merge_windows(attention(partition_windows(x, side, shift)), side, shift)


def partition_windows(x: jax.Array, side: int, shift: jax.Array) -> jax.Array:
    """Cuts the square grid [B, side side, D] rolled by -shift: [B n, 64, D], n windows an image."""
    batch, _, width = x.shape
    windows = side // WINDOW_SIZE
    x = jnp.roll(x.reshape(batch, side, side, width), (-shift, -shift), axis=(1, 2))
    x = x.reshape(batch, windows, WINDOW_SIZE, windows, WINDOW_SIZE, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW_SIZE**2, width)


def merge_windows(x: jax.Array, side: int, shift: jax.Array) -> jax.Array:
    """The inverse of `partition_windows`."""
    width, windows = x.shape[-1], side // WINDOW_SIZE
    x = x.reshape(-1, windows, windows, WINDOW_SIZE, WINDOW_SIZE, width)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, width)
    return jnp.roll(x, (shift, shift), axis=(1, 2)).reshape(-1, side**2, width)


def window_mask(side: int) -> np.ndarray:
    """[n, 64, 64] bool: pairs of the shifted windows that are neighbours in the image.

    The roll brings opposite borders together in the last windows; they must not see each other.
    """
    position, windows = np.arange(side), side // WINDOW_SIZE
    band = (position >= side - WINDOW_SIZE).astype(int) + (position >= side - WINDOW_SIZE // 2)
    region = 3 * band[:, None] + band  # (side, side)
    region = region.reshape(windows, WINDOW_SIZE, windows, WINDOW_SIZE)
    region = region.transpose(0, 2, 1, 3).reshape(-1, WINDOW_SIZE**2)
    return region[:, :, None] == region[:, None, :]


def window_attention(shift: jax.Array, side: int) -> AttentionFn:
    """Dense attention inside windows [B n, 64, nh, hd]; masked when shifted."""
    mask = window_mask(side) | (shift == 0)  # (n, 64, 64)

    def attend(query, key, value, _):
        product = float32_product(query.dtype)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, **product) * query.shape[-1] ** -0.5
        by_image = scores.reshape(-1, mask.shape[0], *scores.shape[1:])  # (B, n, nh, 64, 64)
        scores = jnp.where(mask[:, None], by_image, -jnp.inf).reshape(scores.shape)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return jnp.einsum("nhqk,nkhd->nqhd", weights, value, **product).astype(query.dtype)

    return attend
