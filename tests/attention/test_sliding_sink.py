"""Attention to a window, sinks and summaries, against dense masks in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import Sinks, get_attention
from rf_jax.attention import window as window_module
from rf_jax.attention.sliding_sink import (
    SlidingSinkOptions,
    sliding_sink_attention,
    sliding_sink_flops,
)

# Tokens, window, block of summaries, valid tokens and sinks of two rows: windows of less and more
# than a tile, rows without sinks, sinks that fill more than a block, padding, all in one window.
WINDOWS = [
    (600, 40, 0, (600, 530), (16, 0)),
    (700, 256, 0, (700, 699), (300, 7)),
    (900, 300, 0, (650, 900), (20, 33)),
    (50, 64, 0, (50, 20), (5, 3)),
    (300, 5, 0, (300, 1), (0, 0)),
]
SUMMARIES = [
    (600, 40, 16, (600, 531), (16, 0)),
    (700, 1, 48, (701 - 1, 333), (90, 7)),
    (430, 20, 300, (430, 17), (3, 5)),
    (200, 10, 7, (199, 1), (0, 0)),
    (90, 64, 16, (90, 20), (5, 3)),
]
CASES = WINDOWS + SUMMARIES


def inputs(case, dtype=np.float32):
    tokens, window, block, lengths, sink_lengths = case
    rng = np.random.default_rng(tokens)
    query, key, value = (jnp.asarray(x, dtype) for x in rng.normal(size=(3, 2, tokens, 2, 16)))
    sinks = Sinks(jnp.asarray(sink_lengths, jnp.int32), max(sink_lengths))
    options = SlidingSinkOptions(window=window, block=block)
    return (query, key, value, jnp.asarray(lengths, jnp.int32), sinks), options


def bound(options):
    return get_attention("sliding_sink", (options,)).bind()


def summary_matrix(tokens, first, last, block):
    """[blocks, tokens] that takes means over the tokens of each block from `first` to `last`."""
    place = np.arange(tokens)
    member = (place // block == np.arange(-(-tokens // block))[:, None]) & (place >= first)
    member &= place < last
    return member / np.maximum(member.sum(1, keepdims=True), 1), member.sum(1)


def reference(query, key, value, lengths, sinks, options):
    """The attention in float64, as a differentiable function of dense masks; 0 beyond the lengths.

    Every row of the batch reads its tokens and, where there are some, means of blocks of them.
    """
    place, block = np.arange(query.shape[1]), max(options.block, 1)
    reach = -(-options.window // block)
    apart = np.abs(place[:, None] // block - place // block)
    rows = []
    for row, (length, first) in enumerate(zip(lengths, sinks.lengths, strict=True)):
        valid, is_sink = place < length, place < first
        mask = (apart <= reach) | is_sink | is_sink[:, None]
        mask, keys, values = mask & valid & valid[:, None], key[row], value[row]
        bias = np.zeros(len(place))
        if options.block:
            means, counts = summary_matrix(len(place), int(first), int(length), block)
            beyond = np.abs(place[:, None] // block - np.arange(len(counts))) > reach
            beyond &= (valid & ~is_sink)[:, None] & (counts > 0)
            mask = np.concatenate([mask, beyond], 1)
            keys = jnp.concatenate([keys, jnp.einsum("bs,shd->bhd", means, keys)])
            values = jnp.concatenate([values, jnp.einsum("bs,shd->bhd", means, values)])
            bias = np.concatenate([bias, np.log(np.maximum(counts, 1))])
        scores = jnp.einsum("qhd,khd->hqk", query[row], keys) / np.sqrt(query.shape[-1])
        weights = jnp.exp(scores + bias) * mask
        total = weights.sum(-1, keepdims=True)
        weights /= jnp.where(total > 0, total, 1)
        rows.append(jnp.einsum("hqk,khd->qhd", weights, values))
    return jnp.stack(rows)


def expected_result(arrays, options):
    with jax.enable_x64(True):
        heads = [jnp.asarray(np.asarray(x, np.float64)) for x in arrays[:3]]
        lengths, sinks = (np.asarray(x) for x in (arrays[3], arrays[4].lengths))
        return np.asarray(reference(*heads, lengths, Sinks(sinks, 0), options))


def valid_rows(lengths, tokens):
    return (np.arange(tokens) < np.asarray(lengths)[:, None])[..., None, None]


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)


HALF_CASES = (WINDOWS[1], SUMMARIES[0])
HALF = [(case, t, e) for case in HALF_CASES for t, e in ((jnp.bfloat16, 6e-3), (jnp.float16, 1e-3))]


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"), [*((case, jnp.float32, 1e-6) for case in CASES), *HALF]
)
def test_forward(case, dtype, tolerance):
    arrays, options = inputs(case, dtype)
    out = jax.jit(bound(options))(*arrays)
    assert out.dtype == dtype and np.isfinite(np.asarray(out, np.float32)).all()
    out = np.where(valid_rows(arrays[3], case[0]), out, 0)
    assert relative_error(out, expected_result(arrays, options)) <= tolerance


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [
        *((case, jnp.float32, 1e-5) for case in CASES),
        *((case, jnp.bfloat16, 2e-2) for case in HALF_CASES),
    ],
)
def test_gradients(case, dtype, tolerance):
    (*heads, lengths, sinks), options = inputs(case, dtype)
    cotangent = np.random.default_rng(1).normal(size=heads[0].shape)
    cotangent *= valid_rows(lengths, case[0])

    def loss(attend, *heads):
        return jnp.sum(attend(*heads, lengths, sinks) * cotangent.astype(heads[0].dtype))

    def gradients(attend, *heads):
        return jax.jit(jax.grad(functools.partial(loss, attend), argnums=(0, 1, 2)))(*heads)

    actual = gradients(bound(options), *heads)
    with jax.enable_x64(True):
        lengths, sinks = np.asarray(lengths), Sinks(np.asarray(sinks.lengths), 0)
        dense = functools.partial(reference, options=options)
        heads = [jnp.asarray(np.asarray(x, np.float64)) for x in heads]
        expected = jax.grad(functools.partial(loss, dense), argnums=(0, 1, 2))(*heads)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype and relative_error(a, np.asarray(e)) <= tolerance


@pytest.mark.parametrize("case", [WINDOWS[0], SUMMARIES[0]])
def test_no_sinks_and_no_lengths_mean_none_and_all(case):
    (*heads, _, _), options = inputs(case)
    nothing, whole = Sinks(jnp.zeros(2, jnp.int32), 0), jnp.full(2, case[0], jnp.int32)
    expected = expected_result((*heads, whole, nothing), options)
    assert relative_error(jax.jit(bound(options))(*heads), expected) <= 1e-6


@pytest.mark.parametrize("case", [WINDOWS[2], SUMMARIES[1]])
def test_padding_is_never_read(case):
    """Neither what it holds nor how much there is changes any bit of a valid row."""
    (*heads, lengths, sinks), options = inputs(case)
    beyond = ~valid_rows(lengths, case[0])
    attend = jax.jit(bound(options))
    clean = attend(*heads, lengths, sinks)
    dirty = [
        jnp.where(beyond, filling, x) for x, filling in zip(heads, (1e5, 1e4, -1e4), strict=True)
    ]
    assert np.array_equal(clean * ~beyond, attend(*dirty, lengths, sinks) * ~beyond)
    longer = [jnp.pad(x, ((0, 0), (0, 123), (0, 0), (0, 0)), constant_values=1e4) for x in heads]
    found = attend(*longer, lengths, sinks)[:, : case[0]]
    assert relative_error(found * ~beyond, clean * ~beyond) <= 1e-6


@pytest.mark.parametrize("case", [WINDOWS[0], SUMMARIES[0]])
def test_rows_of_a_batch_stand_alone(case):
    (*heads, lengths, sinks), options = inputs(case)
    together = jax.jit(bound(options))(*heads, lengths, sinks)
    for row in range(2):
        length = int(lengths[row])
        cut = [x[row : row + 1, :length] for x in heads]
        one = Sinks(sinks.lengths[row : row + 1], sinks.most)
        alone = jax.jit(bound(options))(*cut, lengths[row : row + 1], one)
        assert relative_error(together[row, :length], alone[0]) <= 1e-6


@pytest.mark.parametrize("block", [0, 16])
def test_a_row_of_length_0_gives_zeros(block):
    (query, key, value, _, _), _ = inputs(WINDOWS[0])
    lengths, sinks = jnp.asarray([0, 600]), Sinks(jnp.asarray([0, 9]), 9)
    options = SlidingSinkOptions(window=40, block=block)
    out = jax.jit(bound(options))(query, key, value, lengths, sinks)
    assert not out[0].any() and out[1].any()


def test_equal_keys_make_summaries_exact():
    """Then every token has the weight 1 / n, by itself or as a part of a summary."""
    (query, key, value, lengths, sinks), options = inputs(SUMMARIES[0])
    key = jnp.broadcast_to(key[:, :1], key.shape)
    out = jax.jit(bound(options))(query, key, value, lengths, sinks)
    valid = valid_rows(lengths, key.shape[1])
    mean = (value * valid).sum(1, keepdims=True) / lengths[:, None, None, None]
    assert relative_error(out * valid, mean * valid) <= 1e-5


def test_sequences_with_summaries_get_no_others():
    (*heads, lengths, sinks), options = inputs(SUMMARIES[0])
    own = sinks.replace(summarised=True)
    window = SlidingSinkOptions(options.window, block=0)
    found = bound(options)(*heads, lengths, own)
    assert np.array_equal(found, bound(window)(*heads, lengths, sinks))
    assert not np.array_equal(found, bound(options)(*heads, lengths, sinks))


@pytest.mark.parametrize("block", [0, 64])
@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_linear(gradient, block):
    """A head's scores of 32k x 32k would be 4 GiB."""

    def temporary_bytes(tokens):
        def loss(*heads):
            sinks = Sinks(jnp.full(1, 100, jnp.int32), 100)
            return bound(SlidingSinkOptions(256, block))(*heads, None, sinks).sum()

        function = jax.grad(loss, argnums=(0, 1, 2)) if gradient else loss
        shape = jax.ShapeDtypeStruct((1, tokens, 1, 64), jnp.float32)
        compiled = jax.jit(function).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    once, twice = temporary_bytes(16384), temporary_bytes(32768)
    assert twice < min(2.3 * once, 512 * 2**20)


@pytest.mark.parametrize(("window", "block"), [(9, 0), (9, 4), (100, 0), (100, 8)])
def test_operations_are_those_of_the_pairs(window, block):
    options = SlidingSinkOptions(window, block)
    pairs = []
    place = np.arange(60)
    for i in place:
        if i < 7:
            pairs += [(i, j) for j in place]
        elif block == 0:
            pairs += [(i, j) for j in place if j < 7 or abs(i - j) <= window]
        else:
            reach = -(-window // block)
            near = [j for j in place if j < 7 or abs(i // block - j // block) <= reach]
            pairs += [(i, j) for j in near]
            blocks = {j // block for j in place if j >= 7 and j not in near}
            pairs += [(i, "summary", b) for b in blocks]
    sinks = Sinks(7, 7)
    assert sliding_sink_flops(60, 60, 32, 2, options, sinks) == 4 * 32 * len(pairs)


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_tiles_can_be_processed_together(at_once, monkeypatch):
    """As on GPUs."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 700, 2, 16)), jnp.float32) for _ in range(3)]
    lengths, options = jnp.array([700, 577]), SlidingSinkOptions(window=40, block=8)

    def loss(*arrays):
        out = sliding_sink_attention(*arrays, lengths, options=options)
        return jnp.sum(out**2), out

    run = jax.grad(loss, (0, 1, 2), has_aux=True)
    expected = run(*arrays)
    for name in ("_attend", "_gradients"):
        function = getattr(window_module, name)

        def together(*inputs, function=function, **_):
            return function(*inputs, at_once=at_once)

        monkeypatch.setattr(window_module, name, together)
    for found, one in zip(jax.tree.leaves(run(*arrays)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, one, atol=1e-5)
