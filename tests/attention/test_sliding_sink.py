"""Attention to a window and to sinks, against a dense mask in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import Sinks, get_attention
from rf_jax.attention.sliding_sink import SlidingSinkOptions, sliding_sink_flops

# Tokens, window, valid tokens and sinks of two rows: windows of less and more than a block, rows
# without sinks, sinks that fill more than a block, padding, and all in one window.
CASES = [
    (600, 40, (600, 530), (16, 0)),
    (700, 256, (700, 699), (300, 7)),
    (900, 300, (650, 900), (20, 33)),
    (50, 64, (50, 20), (5, 3)),
    (300, 5, (300, 1), (0, 0)),
]


def inputs(case, dtype=np.float32):
    tokens, window, lengths, sink_lengths = case
    rng = np.random.default_rng(tokens)
    query, key, value = (jnp.asarray(x, dtype) for x in rng.normal(size=(3, 2, tokens, 2, 16)))
    sinks = Sinks(jnp.asarray(sink_lengths, jnp.int32), max(sink_lengths))
    return (query, key, value, jnp.asarray(lengths, jnp.int32), sinks), window


def bound(window):
    return get_attention("sliding_sink", (SlidingSinkOptions(window=window),)).bind()


def reference(query, key, value, lengths, sinks, window):
    """Weights and result of the masked softmax in float64; zero in rows beyond the lengths."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    place = np.arange(query.shape[1])
    near = np.abs(place[:, None] - place) <= window
    is_sink = place < np.asarray(sinks.lengths)[:, None]
    valid = place < np.asarray(lengths)[:, None]
    mask = near | is_sink[:, None, :] | is_sink[:, :, None]
    mask &= valid[:, None, :] & valid[:, :, None]
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores) * mask[:, None]
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return weights, np.einsum("bhqk,bkhd->bqhd", weights, value)


def valid_rows(lengths, tokens):
    return (np.arange(tokens) < np.asarray(lengths)[:, None])[..., None, None]


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)


HALF = [(CASES[1], jnp.bfloat16, 4e-3), (CASES[1], jnp.float16, 1e-3)]


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"), [*((case, jnp.float32, 1e-6) for case in CASES), *HALF]
)
def test_forward(case, dtype, tolerance):
    arrays, window = inputs(case, dtype)
    out = jax.jit(bound(window))(*arrays)
    assert out.dtype == dtype and np.isfinite(np.asarray(out, np.float32)).all()
    _, expected = reference(*arrays, window)
    out = np.where(valid_rows(arrays[3], case[0]), out, 0)
    assert relative_error(out, expected) <= tolerance


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [*((case, jnp.float32, 1e-5) for case in CASES), (CASES[1], jnp.bfloat16, 2e-2)],
)
def test_gradients(case, dtype, tolerance):
    (query, key, value, lengths, sinks), window = inputs(case, dtype)
    cotangent = np.random.default_rng(1).normal(size=query.shape)
    cotangent *= valid_rows(lengths, case[0])

    @jax.jit
    def loss(query, key, value):
        return jnp.sum(bound(window)(query, key, value, lengths, sinks) * jnp.float32(cotangent))

    actual = jax.grad(loss, argnums=(0, 1, 2))(query, key, value)
    weights, out = reference(query, key, value, lengths, sinks, window)
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    change = np.einsum("bqhd,bkhd->bhqk", cotangent, value)
    change = weights * (change - np.einsum("bqhd,bqhd->bhq", cotangent, out)[..., None]) / 4
    expected = (
        np.einsum("bhqk,bkhd->bqhd", change, key),
        np.einsum("bhqk,bqhd->bkhd", change, query),
        np.einsum("bhqk,bqhd->bkhd", weights, cotangent),
    )
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= tolerance


def test_no_sinks_and_no_lengths_mean_none_and_all():
    (query, key, value, _, _), window = inputs(CASES[0])
    nothing = Sinks(jnp.zeros(2, jnp.int32), 0)
    whole = jnp.full(2, query.shape[1], jnp.int32)
    _, expected = reference(query, key, value, whole, nothing, window)
    assert relative_error(jax.jit(bound(window))(query, key, value), expected) <= 1e-6


def test_padding_is_never_read():
    (query, key, value, lengths, sinks), window = inputs(CASES[2])
    beyond = ~valid_rows(lengths, query.shape[1])
    attend = jax.jit(bound(window))
    clean = attend(query, key, value, lengths, sinks)
    dirty = attend(
        query, jnp.where(beyond, 1e4, key), jnp.where(beyond, -1e4, value), lengths, sinks
    )
    assert np.array_equal(clean * ~beyond, dirty * ~beyond)


def test_a_row_of_length_0_gives_zeros():
    (query, key, value, _, _), window = inputs(CASES[0])
    lengths, sinks = jnp.asarray([0, 600]), Sinks(jnp.asarray([0, 9]), 9)
    out = jax.jit(bound(window))(query, key, value, lengths, sinks)
    assert not out[0].any() and out[1].any()


def test_memory_is_linear():
    """A head's scores of 32k x 32k would be 4 GiB."""

    def temporary_bytes(tokens, gradient):
        def loss(*heads):
            return bound(256)(*heads, None, Sinks(jnp.full(1, 100, jnp.int32), 100)).sum()

        function = jax.grad(loss, argnums=(0, 1, 2)) if gradient else loss
        shape = jax.ShapeDtypeStruct((1, tokens, 1, 64), jnp.float32)
        compiled = jax.jit(function).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for gradient in (False, True):
        once, twice = (temporary_bytes(tokens, gradient) for tokens in (16384, 32768))
        assert twice < min(2.3 * once, 512 * 2**20)


def test_operations_are_those_of_the_pairs():
    (query, key, value, lengths, sinks), window = inputs((60, 9, (60, 60), (7, 7)))
    pairs = (reference(query, key, value, lengths, sinks, window)[0][0, 0] > 0).sum()
    assert sliding_sink_flops(60, 60, 32, 2, SlidingSinkOptions(window), 7) == 4 * 32 * pairs
