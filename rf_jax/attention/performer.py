"""Linear attention by positive random features: FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794).

With x = q / hd^(1/4) and y = k / hd^(1/4), exp(x . y) is the mean over Gaussian w of
exp(w . x - |x|^2 / 2) exp(w . y - |y|^2 / 2). r draws of w give every token r features phi, and

    out = phi(q) (sum_k phi(k) v^T) / (phi(q) sum_k phi(k))

takes time and memory that are linear in the number of tokens. Padded keys enter no sum and no
maximum.

The relative variance of one feature is exp(|x + y|^2) - 1, so the norms decide how good the
approximation is. The options shrink the norms or the variance (docs/attention.md measures each).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.blocks import join_blocks, split_blocks
from rf_jax.attention.registry import Attention
from rf_jax.precision import float32_product
from rf_jax.schema import Limit

CHUNK = 512
"""Largest number of tokens whose features exist at a time."""

GPU_CHUNK = 4096
"""The same on GPUs, if no gradient is wanted: a GPU is faster with fewer and larger products, a CPU
with features that stay in cache. A batch of training has more rows."""

EPSILON = 1e-4
"""The published constant that is added to every feature; it keeps the normaliser away from 0."""

INITIAL_SQUARED_NORM = 1.5
"""The |x|^2 that the temperature starts from, for normed queries and keys of unit gain."""

LARGEST_SQUARED_NORM = 4.0
"""The |x|^2 that the temperature cannot exceed; features are useless far above 2."""

_LOWEST = -1e30
"""Start of the running maximum. It is finite, so that rows without keys stay finite."""


@dataclasses.dataclass(frozen=True)
class PerformerOptions:
    """How features are made.

    Attributes:
      features: r; None takes hd ln hd, as the published Performer does.
      hyperbolic: makes features in pairs of w and -w (r / 2 draws), for a smaller variance.
      center_keys: subtracts mean(q) + mean(k) from the keys. Softmax ignores any shift of all keys,
        so this would not change exact attention, and it shrinks |x + y|.
      temperature: multiplies queries and keys by a learned, bounded factor per head that starts at
        |x|^2 = INITIAL_SQUARED_NORM. This changes the attention, so it is only for networks that
        are trained with it.
    """

    features: Annotated[int, Limit("in [1, 65536]", lambda x: 1 <= x <= 65536)] | None = None
    hyperbolic: bool = False
    center_keys: bool = False
    temperature: bool = False

    def num_draws(self, head_dim: int) -> int:
        """Number of rows of the projection, for heads of that width."""
        features = self.features or int(head_dim * math.log(head_dim))
        return -(-features // 2) if self.hyperbolic else features

    def num_features(self, head_dim: int) -> int:
        """Number of features per token, for heads of that width."""
        return self.num_draws(head_dim) * (2 if self.hyperbolic else 1)


class PerformerAttention(nn.Module):
    """`performer_attention` with its variables: the projection, and the temperature if it is on.

    The projection is a constant: it is drawn and stored with the parameters, but never trained.
    """

    options: PerformerOptions
    cross: bool = False  # these two are arguments of `performer_attention`
    axis_name: str | None = None

    @nn.compact
    def __call__(self, query, key, value, key_lengths=None):
        """See `rf_jax.attention` for the contract."""
        num_heads, head_dim = query.shape[2:]
        projection = self.variable(
            "constants",
            "projection",
            lambda: orthogonal_projection(
                self.make_rng("params"), self.options.num_draws(head_dim), head_dim
            ),
        )
        if self.options.temperature:
            logit = self.param("temperature", _initial_temperature, (num_heads,), jnp.float32)
            factor = temperature(logit, head_dim)[:, None].astype(query.dtype)
            query, key = query * factor, key * factor
        constants = projection.value, self.options, self.cross, self.axis_name
        return performer_attention(query, key, value, key_lengths, *constants)


def performer_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array | None,
    projection: jax.Array,
    options: PerformerOptions = PerformerOptions(),
    cross: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """Approximates softmax attention; see `rf_jax.attention` for the contract.

    Args:
      query: [B, T, nh, hd].
      key, value: [B, S, nh, hd].
      key_lengths: [B] int32, or None if all keys are valid.
      projection: [draws, hd], drawn by `orthogonal_projection`.
      options: only `hyperbolic` and `center_keys` matter here.
      cross: whether the queries are other tokens than the keys; then all of them are valid. Else
        they are as many, and the lengths hold for them too. Only `center_keys` asks.
      axis_name: the mesh axis over whose devices queries, keys and values are split alike; the
        lengths count the keys of all devices. None if they are not split.

    Returns:
      [B, T, nh, hd] in the type of query; differentiable in reverse mode only.
    """
    here, key_lengths = _lengths(key, key_lengths, axis_name)
    arrays = query, key, value, here, key_lengths, projection
    return _attention((options, cross, axis_name), *arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how, *arrays):
    """Attention whose chunks suit the platform, unless it is differentiated."""
    cpu, others = (functools.partial(_in_chunks, chunk, how) for chunk in (CHUNK, GPU_CHUNK))
    return lax.platform_dependent(*arrays, cpu=cpu, default=others)


def _attention_forward(how, *arrays):
    return jax.vjp(functools.partial(_in_chunks, CHUNK, how), *arrays)


def _attention_backward(how, gradient_of, cotangent):
    return gradient_of(cotangent)


_attention.defvjp(_attention_forward, _attention_backward)


def _in_chunks(chunk, how, query, key, value, here, key_lengths, projection):
    """The attention, computed for `chunk` tokens at a time; `here` are the device's key lengths."""
    options, cross, axis_name = how
    if options.center_keys:
        key = _centered(query, key, here, key_lengths, cross, axis_name)
    blocks = (split_blocks(x, chunk) for x in (key, value))
    sums = _sum_keys(*blocks, here, projection, options.hyperbolic)
    summary = _summary(_sum_devices(sums, axis_name), key_lengths)

    # Without the checkpoint the gradient would store the features of all tokens.
    @jax.checkpoint
    def read(query):
        return _read(query, summary, projection, options.hyperbolic)

    return join_blocks(lax.map(read, split_blocks(query, chunk)), query.shape[1])


def log_features(
    x: jax.Array, projection: jax.Array, hyperbolic: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Logarithms of the features of queries or keys, in float32.

    exp(log_features(q)) . exp(log_features(k)) / r estimates exp(q . k / sqrt(hd)) without bias
    (lemma 1 of the paper).

    Args:
      x: [..., hd].
      projection: [draws, hd].
      hyperbolic: whether to append the features of the negated projection.

    Returns:
      the logarithms [..., r] with r = draws or 2 draws, and the largest w . x hd^(-1/4) of each
      token [..., 1], which the published Performer subtracts before the exponential.
    """
    head_dim = x.shape[-1]
    product = float32_product(x.dtype)
    dots = jnp.einsum("...d,rd->...r", x, projection.astype(x.dtype), **product)
    dots = dots * head_dim**-0.25
    if hyperbolic:
        dots = jnp.concatenate([dots, -dots], axis=-1)
    squared_norm = jnp.sum(jnp.square(x.astype(dots.dtype)), axis=-1, keepdims=True)
    largest = lax.stop_gradient(dots.max(-1, keepdims=True))
    return dots - squared_norm * (head_dim**-0.5 / 2), largest


def orthogonal_projection(rng: jax.Array, draws: int, head_dim: int) -> jax.Array:
    """Draws Gaussian directions [draws, hd] that are orthogonal within blocks of hd.

    Each direction on its own is distributed as N(0, I).
    """
    blocks = -(-draws // head_dim)
    direction_rng, norm_rng = jax.random.split(rng)
    gaussian = jax.random.normal(direction_rng, (blocks, head_dim, head_dim), jnp.float32)
    orthogonal, upper = jnp.linalg.qr(gaussian)
    # These signs make QR unique, and hence the directions uniform (Mezzadri, math-ph/0609050).
    orthogonal *= jnp.sign(jnp.diagonal(upper, axis1=1, axis2=2))[:, None, :]
    rows = orthogonal.swapaxes(1, 2).reshape(-1, head_dim)[:draws]
    norms = jnp.linalg.norm(jax.random.normal(norm_rng, (draws, head_dim), jnp.float32), axis=1)
    return rows * norms[:, None]


def redraw_projections(constants: Any, rng: jax.Array) -> Any:
    """Draws all projections among the constants of a network anew, and keeps the other constants.

    Args:
      constants: the network's tree of constants; projections are [..., draws, hd].
      rng: a key.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(constants)
    rngs = jax.random.split(rng, len(leaves))

    def redraw(path, leaf, leaf_rng):
        if path[-1].key != "projection":
            return leaf
        *layers, draws, head_dim = leaf.shape
        layer_rngs = jax.random.split(leaf_rng, math.prod(layers))
        drawn = jax.vmap(lambda r: orthogonal_projection(r, draws, head_dim))(layer_rngs)
        return drawn.reshape(leaf.shape).astype(leaf.dtype)

    redrawn = [redraw(path, leaf, r) for (path, leaf), r in zip(leaves, rngs, strict=True)]
    return jax.tree.unflatten(structure, redrawn)


def temperature(logit: jax.Array, head_dim: int) -> jax.Array:
    """The factor on queries and keys, of the shape of `logit`.

    It lies between 0 and the factor for which |x|^2 = LARGEST_SQUARED_NORM at unit gain.
    """
    # A normed head has |q|^2 = hd, hence |x|^2 = sqrt(hd).
    return jax.nn.sigmoid(logit) * math.sqrt(LARGEST_SQUARED_NORM / math.sqrt(head_dim))


def _initial_temperature(_, shape, dtype):
    share = math.sqrt(INITIAL_SQUARED_NORM / LARGEST_SQUARED_NORM)
    return jnp.full(shape, math.log(share / (1 - share)), dtype)


def _lengths(x, lengths, axis_name):
    """The numbers of valid tokens [B] on this device and on all devices of the axis.

    Args:
      x: [B, S / n, nh, hd] the tokens of this device.
      lengths: [B] the numbers on all devices; None if all tokens are valid.
    """
    padded = x.shape[1]
    if axis_name is None:
        devices, first = 1, 0
    else:
        devices, first = lax.axis_size(axis_name), lax.axis_index(axis_name) * padded
    if lengths is None:
        lengths = jnp.full((x.shape[0],), padded * devices, jnp.int32)
    return jnp.clip(lengths - first, 0, padded), lengths


def _centered(query, key, here, key_lengths, cross, axis_name):
    """Subtracts the means of the valid queries and keys from the keys."""
    queries = _lengths(query, None, axis_name) if cross else (here, key_lengths)
    center = _mean(key, here, key_lengths, axis_name) + _mean(query, *queries, axis_name)
    return (key.astype(center.dtype) - center).astype(key.dtype)


def _mean(x, here, lengths, axis_name):
    """Mean [B, 1, nh, hd], in float32, of the first `lengths` tokens; `here` are on this device."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    valid = (jnp.arange(x.shape[1]) < here[:, None])[..., None, None]
    total = jnp.sum(jnp.where(valid, x, 0), axis=1, keepdims=True)
    if axis_name is not None:
        total = lax.psum(total, axis_name)
    return total / jnp.maximum(lengths, 1)[:, None, None, None]


def _sum_keys(key_blocks, value_blocks, key_lengths, projection, hyperbolic):
    """Sums over valid keys of phi(k) v^T, phi(k) and v, and the largest exponent in phi.

    This takes one pass: the sums are rescaled when the running maximum of the exponents grows.

    Returns:
      the maximum [B, nh, 1, 1], and the sums [B, nh, r, hd], [B, nh, r] and [B, nh, hd].
    """
    _, batch, num_heads, size, head_dim = key_blocks.shape
    product = float32_product(key_blocks.dtype)
    dtype = product["preferred_element_type"]
    features = projection.shape[0] * (2 if hyperbolic else 1)

    @jax.checkpoint
    def add(carry, start, key, value):
        maximum, weighted, total, values = carry
        valid = (start + jnp.arange(size) < key_lengths[:, None])[:, None, :, None]  # (B, 1, t, 1)
        value = jnp.where(valid, value, 0)
        logs, largest = log_features(key, projection, hyperbolic)
        largest = jnp.where(valid, largest, _LOWEST).max(2, keepdims=True)
        new_maximum = jnp.maximum(maximum, largest)
        phi = jnp.exp(jnp.where(valid, logs - new_maximum, -jnp.inf))
        shrink = jnp.exp(maximum - new_maximum)
        added = jnp.einsum("bhtr,bhtd->bhrd", phi.astype(value.dtype), value, **product)
        return (
            new_maximum,
            weighted * shrink + added,
            total * shrink[..., 0] + phi.sum(2),
            values + value.astype(dtype).sum(2),
        )

    def step(carry, block):  # skips no block: a GPU would wait for the host at every condition
        return add(carry, *block), None

    carry = (
        jnp.full((batch, num_heads, 1, 1), _LOWEST, dtype),
        jnp.zeros((batch, num_heads, features, head_dim), dtype),
        jnp.zeros((batch, num_heads, features), dtype),
        jnp.zeros((batch, num_heads, head_dim), dtype),
    )
    starts = jnp.arange(len(key_blocks)) * size
    return lax.scan(step, carry, (starts, key_blocks, value_blocks))[0]


def _sum_devices(sums, axis_name):
    """The result of `_sum_keys` for the keys of all devices of the axis."""
    if axis_name is None:
        return sums
    maximum, weighted, total, values = sums
    largest = lax.pmax(lax.stop_gradient(maximum), axis_name)
    shrink = jnp.exp(maximum - largest)
    scaled = weighted * shrink, total * shrink[..., 0], values
    return largest, *lax.psum(scaled, axis_name)


def _summary(sums, key_lengths):
    """The means over all keys of phi(k) v^T [B, nh, r, hd] and of phi(k) [B, nh, r]."""
    _, weighted, total, values = sums
    count = jnp.maximum(key_lengths, 1)[:, None, None]
    weighted = (weighted + EPSILON * values[:, :, None]) / count[..., None]
    return weighted, (total + EPSILON * key_lengths[:, None, None]) / count


def _read(query, summary, projection, hyperbolic):
    """The attention of queries [B, nh, t, hd], from the summary of the keys."""
    weighted, total = summary
    logs, largest = log_features(query, projection, hyperbolic)
    phi = (jnp.exp(logs - largest) + EPSILON).astype(query.dtype)
    product = float32_product(query.dtype)
    out = jnp.einsum("bhtr,bhrd->bhtd", phi, weighted.astype(query.dtype), **product)
    normaliser = jnp.einsum("bhtr,bhr->bht", phi, total.astype(query.dtype), **product)[..., None]
    return (out / jnp.where(normaliser > 0, normaliser, 1)).astype(query.dtype)


PROJECTION_NAME = "fast_attention.projection_matrix"
"""The end of the names of random projections in files of the Performer fork of RenderFormer, which
hold one [r, hd] per layer."""


def performer_flops(
    queries: int, keys: int, width: int, num_heads: int, options: PerformerOptions
) -> float:
    """Floating-point operations: making all features, and the two products that these enter."""
    head_dim = width // num_heads
    per_token = options.num_draws(head_dim) + options.num_features(head_dim)
    return 2 * (queries + keys) * per_token * width


def fork_options(shapes: Mapping[str, tuple[int, ...]]) -> PerformerOptions | None:
    """The options that the tensors of a file imply; None if none of them is a projection.

    The files of the Performer fork do not name their attention.
    """
    for name, shape in shapes.items():
        if name.endswith(PROJECTION_NAME) and shape:
            return PerformerOptions(features=shape[0])
    return None


PERFORMER = Attention(
    "performer",
    PerformerAttention,
    options=PerformerOptions(),
    has_variables=True,
    sums_keys=True,
    tells_cross=True,
    flops=performer_flops,
    redraw=redraw_projections,
    torch_names={"projection": PROJECTION_NAME, "temperature": "temperature"},
    recognize=fork_options,
)
