"""Multi-head attention and the layers of both stages. Axes as in `rf_jax.structs`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.attention import Attention, Sinks
from rf_jax.attention.sharding import gather_tokens
from rf_jax.models.config import TransformerConfig
from rf_jax.models.encodings import Rotation, inverse, rotate
from rf_jax.models.layers import FeedForward, linear, norm
from rf_jax.models.windows import merge_windows, partition_windows, window_attention


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[..., D] -> [..., nh, hd]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., nh, hd] -> [..., D]."""
    return x.reshape(*x.shape[:-2], -1)


def normed_heads(
    x: jax.Array, config: TransformerConfig, name: str, rotation: Rotation | None
) -> jax.Array:
    """Norms x [B, S, D] over the full width, and splits it into heads, which it rotates.

    Args:
      x: queries or keys.
      config: the kind of norm and the number of heads.
      name: of the norm's Linen module.
      rotation: of the heads; None rotates nothing.

    Returns:
      [B, S, nh, hd] in float32 at least, unless there is no norm.
    """
    layer = norm(config.qk_norm_type, name)
    if rotation is None:
        return split_heads(layer(x), config.num_heads)

    def turn(rows):
        return rotate(split_heads(rows, config.num_heads), rotation)

    return layer(x, turn) if config.qk_norm_type == "rms_norm" else turn(layer(x))


class SelfAttention(nn.Module):
    """Tokens attend to tokens: to all of them, or to those of their window.

    Queries and keys are normed over the full width, before they are split into heads. The attention
    function's queries and keys are also sown as the intermediates "query" and "key".
    """

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, S, D]
        rotation: Rotation | None = None,  # of queries and keys
        key_lengths: jax.Array | None = None,  # [B]
        sinks: Sinks | None = None,  # for attention functions that read them
    ) -> jax.Array:
        """[B, S, D] -> [B, S, D], without the residual connection."""
        config = self.config
        qkv = linear(3 * config.width, self.dtype, "qkv", config.use_bias)(x)
        # On GPUs XLA would write the gradient of qkv in parts, and join them twice.
        qkv = jax.lax.platform_dependent(
            qkv, cuda=jax.lax.optimization_barrier, default=lambda x: x
        )
        query, key, value = jnp.split(qkv, 3, axis=-1)
        turn = rotation if config.attention.rotates else None
        query = normed_heads(query, config, "q_norm", turn).astype(self.dtype)
        key = normed_heads(key, config, "k_norm", turn).astype(self.dtype)
        value = split_heads(value, config.num_heads)
        self.sow("intermediates", "query", query)
        self.sow("intermediates", "key", key)
        if rotation is not None and config.rotate_values:
            value = rotate(value, rotation)
        lengths = (key_lengths, sinks) if config.attention.reads_sinks else (key_lengths,)
        out = config.attention.bind()(query, key, value, *lengths)
        if rotation is not None and config.rotate_values:
            out = rotate(out, inverse(rotation))
        return linear(config.width, self.dtype, "out", config.use_bias)(merge_heads(out))


class CrossAttention(nn.Module):
    """Ray tokens attend to the keys and values that `ContextProjection` made of the triangles."""

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B V, P, D], the views of a scene one after the other
        key: jax.Array,  # [B, S, nh, hd], or with B V rows if it depends on the view; or S / n of S
        value: jax.Array,  # the shape of key
        query_rotation: Rotation | None,  # with B V rows
        key_rotation: Rotation | None,  # with B V rows
        key_lengths: jax.Array,  # [B V]
    ) -> jax.Array:
        """[B V, P, D] -> [B V, P, D], without the residual connection."""
        config = self.config
        views = x.shape[0] // key.shape[0]
        if axis := config.attention.context_axis:
            key, value = gather_tokens(key, axis), gather_tokens(value, axis)
        key, value = jnp.repeat(key, views, axis=0), jnp.repeat(value, views, axis=0)
        query = linear(config.width, self.dtype, "q_proj", config.use_bias)(x)
        query = normed_heads(query, config, "q_norm", query_rotation).astype(self.dtype)
        if key_rotation is not None:
            key = rotate(key, key_rotation)
            if config.rotate_values:
                value = rotate(value, key_rotation)
        out = config.attention.bind(cross=True)(query, key, value, key_lengths)
        if query_rotation is not None and config.rotate_values:
            out = rotate(out, inverse(query_rotation))
        return linear(config.width, self.dtype, "out", config.use_bias)(merge_heads(out))


class ContextProjection(nn.Module):
    """The keys and values of one layer's cross attention.

    They are apart from `CrossAttention`, because with RoPE they do not depend on the view. This
    module is called by a scan over the layers, which carries None.
    """

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry: None, tokens: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        """Tokens [B, S, D'] -> key, value [B, S, nh, hd]; keys are normed, but not rotated."""
        config = self.config
        context = norm(config.norm_type, "norm")(tokens)
        key = linear(config.width, self.dtype, "k_proj", config.use_bias)(context)
        key = norm(config.qk_norm_type, "k_norm")(key).astype(self.dtype)
        value = linear(config.width, self.dtype, "v_proj", config.use_bias)(context)
        return carry, (split_heads(key, config.num_heads), split_heads(value, config.num_heads))


class EncoderLayer(nn.Module):
    """Pre-norm layer of the view-independent stage; called by a scan over the layers."""

    config: TransformerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, S, D] float32 residual stream
        rotation: Rotation | None,
        key_lengths: jax.Array,  # [B]
        sinks: Sinks | None = None,
    ) -> tuple[jax.Array, None]:
        """Returns the stream [B, S, D] after this layer, and None for the scan to stack."""
        config = self.config
        normed = norm(config.norm_type, "attention_norm")(x)
        attention = SelfAttention(config, self.dtype, name="attention")
        x = x + attention(normed, rotation, key_lengths, sinks)
        ffn = FeedForward(config, self.dtype, name="ffn")
        return x + ffn(norm(config.norm_type, "ffn_norm")(x)), None


class DecoderLayer(nn.Module):
    """Layer of the view-dependent stage: cross attention, self attention, feed-forward.

    Self attention needs no RoPE where all rays have one position, the camera's: it would cancel in
    the scores. With projected positions each ray patch has its own.

    Attributes:
      include_self_attention: whether rays attend to rays.
      shift: shift of the windows in which rays attend to rays (Swin, section 3.2), in patches; None
        if rays attend to all rays.
    """

    config: TransformerConfig
    dtype: jnp.dtype
    include_self_attention: bool
    shift: int | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B V, P, D] float32 residual stream of ray tokens
        context: tuple[jax.Array, jax.Array],  # key and value of `ContextProjection`
        query_rotation: Rotation | None,
        key_rotation: Rotation | None,
        key_lengths: jax.Array,  # [B V]
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the stream [B V, P, D] after this layer, for the next one and again as a tap."""
        config = self.config
        normed = norm(config.norm_type, "cross_attention_norm")(x)
        cross = CrossAttention(config, self.dtype, name="cross_attention")
        x = x + cross(normed, *context, query_rotation, key_rotation, key_lengths)
        if self.include_self_attention:
            normed = norm(config.norm_type, "self_attention_norm")(x)
            x = x + self._attend_to_rays(normed, query_rotation)
        ffn = FeedForward(config, self.dtype, name="ffn")
        x = x + ffn(norm(config.norm_type, "ffn_norm")(x))
        return x, x

    def _attend_to_rays(self, x, rotation):
        if rotation is not None and rotation[0].shape[1] != x.shape[1]:
            rotation = None  # one for all rays
        if self.shift is None:
            return SelfAttention(self.config, self.dtype, name="self_attention")(x, rotation)
        side = round(x.shape[1] ** 0.5)
        attention = Attention("window", window_attention(self.shift, side))
        config = dataclasses.replace(self.config, attention=attention)
        if rotation is not None:
            cut = (partition_windows(part[:, :, 0], side, self.shift) for part in rotation)
            rotation = tuple(part[:, :, None] for part in cut)
        windows = partition_windows(x, side, self.shift)
        windows = SelfAttention(config, self.dtype, name="self_attention")(windows, rotation)
        return merge_windows(windows, side, self.shift)
