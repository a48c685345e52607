"""Every exact attention function against softmax attention in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import ATTENTIONS, get_attention, parse_attention
from rf_jax.errors import InputError

EXACT = [name for name, attention in ATTENTIONS.items() if attention.exact]

# (queries, keys, key lengths of two rows): ragged, length 1, length 0, sizes no block divides.
CASES = [
    (64, 64, None),
    (17, 33, (33, 5)),
    (5, 130, (1, 130)),
    (40, 70, (0, 64)),
    (300, 1100, (1025, 3)),
]


def inputs(num_queries, num_keys, lengths, dtype=np.float32, head_dim=48):
    rng = np.random.default_rng(num_queries)
    shapes = [(2, n, 3, head_dim) for n in (num_queries, num_keys, num_keys)]
    query, key, value = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    return query, key, value, None if lengths is None else jnp.asarray(lengths, jnp.int32)


def reference(query, key, value, lengths):
    """Softmax attention in float64; rows without keys are zero."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    if lengths is not None:
        valid = np.arange(key.shape[1]) < np.asarray(lengths)[:, None]
        scores = np.where(valid[:, None, None], scores, -np.inf)
    maximum = np.maximum(scores.max(-1, keepdims=True), -1e30)
    weights = np.exp(scores - maximum)
    total = weights.sum(-1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    return np.einsum("bhqk,bkhd->bqhd", weights, value), weights


def relative_error(actual, expected):
    actual = np.asarray(actual, np.float64)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("case", CASES)
def test_forward_is_softmax(name, case):
    arrays = inputs(*case)
    out = jax.jit(get_attention(name).bind())(*arrays)
    assert out.dtype == jnp.float32
    assert relative_error(out, reference(*arrays)[0]) <= 1e-6


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.bfloat16, 4e-3), (jnp.float16, 1e-3)], ids=["bf16", "fp16"]
)
def test_half_precision_keeps_float32_statistics(name, dtype, tolerance):
    arrays = inputs(64, 200, (200, 77), dtype)
    out = jax.jit(get_attention(name).bind())(*arrays)
    assert out.dtype == dtype
    assert relative_error(out, reference(*arrays)[0]) <= tolerance


def reference_gradients(query, key, value, lengths, cotangent):
    """The gradient of sum(out * cotangent), written out in float64."""
    out, weights = reference(query, key, value, lengths)
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5
    d_weights = np.einsum("bqhd,bkhd->bhqk", cotangent, value)
    d_scores = weights * (d_weights - np.einsum("bqhd,bqhd->bhq", cotangent, out)[..., None])
    return (
        np.einsum("bhqk,bkhd->bqhd", d_scores, key) * scale,
        np.einsum("bhqk,bqhd->bkhd", d_scores, query) * scale,
        np.einsum("bhqk,bqhd->bkhd", weights, cotangent),
    )


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_softmax(name, case):
    query, key, value, lengths = inputs(*case)
    cotangent = np.random.default_rng(1).normal(size=query.shape).astype(np.float32)

    @jax.jit
    def loss(query, key, value):
        return jnp.sum(get_attention(name).bind()(query, key, value, lengths) * cotangent)

    actual = jax.grad(loss, argnums=(0, 1, 2))(query, key, value)
    expected = reference_gradients(query, key, value, lengths, cotangent)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= 1e-5


@pytest.mark.parametrize("name", EXACT)
def test_keys_beyond_the_length_are_never_read(name):
    query, key, value, lengths = inputs(20, 90, (60, 7))
    beyond = (jnp.arange(90) >= lengths[:, None])[..., None, None]
    attention = jax.jit(get_attention(name).bind())
    clean = attention(query, key, value, lengths)
    dirty = attention(query, jnp.where(beyond, 1e4, key), jnp.where(beyond, -1e4, value), lengths)
    assert np.array_equal(clean, dirty)


@pytest.mark.parametrize("name", EXACT)
def test_large_scores_stay_finite(name):
    query, key, value, lengths = inputs(20, 90, (60, 7))
    out = get_attention(name).bind()(query * 100, key * 100, value, lengths)
    assert np.isfinite(out).all()


def test_dot_product_memory_is_bounded():
    """16k x 16k scores would be 1 GiB a head."""
    shape = jax.ShapeDtypeStruct((1, 16384, 1, 64), jnp.float32)
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    compiled = (
        jax.jit(get_attention("dot_product").bind()).lower(shape, shape, shape, lengths).compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match=r"auto, dot_product.*found 'softmax'"):
        get_attention("softmax")


def test_names_by_stage():
    assert parse_attention("dot_product") == ("dot_product", "dot_product")
    assert parse_attention("a, b") == ("a", "b")
    assert parse_attention("sliding_sink") == ("sliding_sink", "auto")
    with pytest.raises(InputError, match="stage1,stage2"):
        parse_attention("a,b,c")
