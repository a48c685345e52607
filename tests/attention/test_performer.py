"""FAVOR+ against the published one, its statistics, padding, and the options."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import get_attention
from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.performer import (
    LARGEST_SQUARED_NORM,
    PerformerAttention,
    PerformerOptions,
    log_features,
    orthogonal_projection,
    performer_attention,
    redraw_projections,
    temperature,
)
from rf_jax.models.transformer import CrossAttention

REFERENCE = Path(__file__).parents[1] / "data" / "favor_plus.npz"
ALL_OPTIONS = [
    PerformerOptions(),
    PerformerOptions(hyperbolic=True),
    PerformerOptions(center_keys=True),
    PerformerOptions(hyperbolic=True, center_keys=True),
]


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def heads(seed, tokens, squared_norm, head_dim=64, batch=2, num_heads=2, dtype=jnp.float32):
    """Queries, keys and values; x = q / hd^(1/4) has that squared norm on average."""
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=(3, batch, tokens, num_heads, head_dim))
    arrays[:2] *= (squared_norm / head_dim**0.5) ** 0.5
    return [jnp.asarray(array, dtype) for array in arrays]


def draw(seed, features, head_dim=64):
    return orthogonal_projection(jax.random.key(seed), features, head_dim)


def test_equals_the_published_favor_plus():
    data = np.load(REFERENCE)
    query, key, value = (data[name].transpose(0, 2, 1, 3) for name in ("q", "k", "v"))
    out = performer_attention(query, key, value, None, data["projection"])
    assert relative_error(out.transpose(0, 2, 1, 3), data["favor_plus"]) <= 1e-5


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("padding", [1, 100, 1500])
def test_padding_changes_nothing(options, padding):
    query, key, value = heads(0, 90, 1.0)
    lengths = jnp.array([90, 37])
    rng = np.random.default_rng(1)

    def pad(x):
        garbage = 30 * rng.normal(size=(2, padding, *x.shape[2:])).astype(np.float32)
        return jnp.concatenate([x, garbage], axis=1)

    attend = jax.jit(lambda q, k, v: performer_attention(q, k, v, lengths, draw(2, 128), options))
    # Beyond the lengths queries are padding too: what they compute is not read.
    clean, dirty = attend(query, key, value), attend(*map(pad, (query, key, value)))
    for row, length in enumerate(lengths):
        assert relative_error(dirty[row, :length], clean[row, :length]) <= 1e-6


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_padding_has_no_gradient(options):
    query, key, value = heads(0, 50, 1.0)
    lengths = jnp.array([50, 20])

    def loss(key, value):
        out = performer_attention(query, key, value, lengths, draw(2, 64), options)
        return jnp.sum(out[1, :20] ** 2)

    for gradient in jax.grad(loss, argnums=(0, 1))(key * 10, value):
        assert np.isfinite(gradient).all()
        assert np.all(gradient[1, 20:] == 0)
        assert np.any(gradient[1, :20] != 0)


def test_cross_attention_with_as_many_queries_as_keys(config):
    """All queries are valid there, though only some of the keys are."""
    options = PerformerOptions(features=16, center_keys=True)
    transformer = dataclasses.replace(
        config.view_dependent, attention=get_attention("performer", (options,))
    )
    layer = CrossAttention(transformer, jnp.float32)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 16, transformer.width)), jnp.float32)
    context = [jnp.asarray(rng.normal(size=(1, 20, 1, 36)), jnp.float32) for _ in range(2)]
    lengths = jnp.array([9])
    variables = layer.init(jax.random.key(0), x, *context, None, None, lengths)
    more, as_many = (
        layer.apply(variables, x, *(c[:, :count] for c in context), None, None, lengths)
        for count in (20, 16)
    )
    assert relative_error(as_many, more) <= 1e-5


def test_length_0_gives_zeros():
    query, key, value = heads(0, 30, 1.0)
    out = performer_attention(query, key, value, jnp.array([0, 30]), draw(0, 64))
    assert np.all(out[0] == 0)
    assert np.any(out[1] != 0)


def kernel_estimates(query, key, draws, features, hyperbolic):
    """[draws] estimates of exp(q . k / sqrt(hd)) for one pair."""
    per_draw = features // 2 if hyperbolic else features

    def estimate(rng):
        projection = orthogonal_projection(rng, per_draw, query.shape[-1])
        logs = [log_features(x, projection, hyperbolic)[0] for x in (query, key)]
        return jnp.exp(logs[0] + logs[1]).mean()

    return np.asarray(jax.vmap(estimate)(jax.random.split(jax.random.key(0), draws)))


@pytest.mark.parametrize("hyperbolic", [False, True])
def test_kernel_estimate_is_unbiased(hyperbolic):
    rng = np.random.default_rng(3)
    query, key = (jnp.asarray(rng.normal(size=32) * 0.45, jnp.float32) for _ in range(2))
    estimates = kernel_estimates(query, key, 1000, 64, hyperbolic)
    exact = np.exp(float(query @ key) / np.sqrt(32))
    assert abs(estimates.mean() - exact) <= 3 * estimates.std() / np.sqrt(1000)


def test_variance_falls_as_one_over_the_features():
    rng = np.random.default_rng(4)
    query, key = (jnp.asarray(rng.normal(size=32) * 0.45, jnp.float32) for _ in range(2))
    variances = [kernel_estimates(query, key, 4000, r, False).var() for r in (32, 128, 512)]
    ratios = np.divide(variances[:-1], variances[1:])
    np.testing.assert_allclose(ratios, 4, rtol=0.35)


@pytest.mark.parametrize("draws", [5, 64, 150])
def test_projection_is_orthogonal_within_blocks_and_gaussian_in_norm(draws):
    projection = np.asarray(draw(1, draws, 64))
    assert projection.shape == (draws, 64)
    block = projection[:64]
    gram = block @ block.T
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-3)
    many = np.asarray(draw(2, 4096, 64))
    np.testing.assert_allclose((many**2).sum(1).mean(), 64, rtol=0.03)
    np.testing.assert_allclose(many.mean(0), 0, atol=0.1)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_large_norms_stay_finite(options, dtype):
    query, key, value = heads(5, 64, 200.0, dtype=dtype)
    loss = lambda *x: jnp.sum(  # noqa: E731
        performer_attention(*x, jnp.array([64, 9]), draw(0, 128), options).astype(jnp.float32)
    )
    assert np.isfinite(loss(query, key, value))
    for gradient in jax.grad(loss, argnums=(0, 1, 2))(query, key, value):
        assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_bfloat16_stays_close_to_float32():
    arrays = heads(6, 300, 1.0)
    projection = draw(0, 256)
    exact = performer_attention(*arrays, None, projection)
    half = performer_attention(*(x.astype(jnp.bfloat16) for x in arrays), None, projection)
    assert half.dtype == jnp.bfloat16
    # The output is a mean over 300 values; its error is that of bfloat16 values and weights.
    assert relative_error(half.astype(jnp.float32), exact) <= 2e-2


def test_error_falls_with_features():
    arrays = heads(7, 400, 1.0)
    exact = dot_product_attention(*arrays)
    errors = [
        np.median(
            [
                relative_error(performer_attention(*arrays, None, draw(s, r)), exact)
                for s in range(4)
            ]
        )
        for r in (64, 1024)
    ]
    assert errors[1] < 0.4 * errors[0]


def test_options_halve_the_error_of_plain_features():
    """512 features, hd 128, |x|^2 = 1, half of the keys' norm in a common mean."""
    query, key, value = heads(8, 1024, 1.0, head_dim=128, batch=1)
    mean = np.random.default_rng(9).normal(size=(1, 1, 2, 128))
    mean *= np.sqrt(0.5) * 128**0.25 / np.linalg.norm(mean, axis=-1, keepdims=True)
    key = key * np.sqrt(0.5) + jnp.asarray(mean, jnp.float32)
    exact = dot_product_attention(query, key, value)

    def error(options):
        out = [
            performer_attention(
                query, key, value, None, draw(seed, options.num_draws(128), 128), options
            )
            for seed in range(4)
        ]
        return np.median([relative_error(o, exact) for o in out])

    plain = error(PerformerOptions(features=512))
    better = error(PerformerOptions(features=512, hyperbolic=True, center_keys=True))
    assert better <= plain / 2


def test_memory_is_linear_in_tokens():
    def temporary_bytes(tokens):
        shape = jax.ShapeDtypeStruct((1, tokens, 2, 64), jnp.float32)
        attend = jax.jit(lambda q, k, v: performer_attention(q, k, v, None, draw(0, 128)))
        analysis = attend.lower(shape, shape, shape).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    sizes = [temporary_bytes(tokens) for tokens in (16384, 32768, 65536)]
    assert max(sizes[1] / sizes[0], sizes[2] / sizes[1]) <= 2.2


def test_temperature_starts_where_it_should_and_is_bounded():
    module = PerformerAttention(PerformerOptions(temperature=True))
    arrays = heads(10, 20, 1.0)
    variables = module.init(jax.random.key(0), *arrays)
    logit = variables["params"]["temperature"]
    assert logit.shape == (2,)
    # Normed heads of unit gain have |q|^2 = hd, so |x|^2 = sqrt(hd) t^2.
    np.testing.assert_allclose(temperature(logit, 64) ** 2 * 8, 1.5, rtol=1e-5)
    assert np.all(
        temperature(jnp.array([-50.0, 50.0]), 64) ** 2 * 8 <= LARGEST_SQUARED_NORM * 1.001
    )

    def loss(params):
        out = module.apply({**variables, "params": params}, *arrays)
        return jnp.sum(out**2)

    assert np.all(jax.grad(loss)(variables["params"])["temperature"] != 0)


def test_projection_is_a_constant_and_can_be_redrawn():
    module = get_attention("performer", (PerformerOptions(features=32),)).bind()
    arrays = heads(11, 20, 1.0)
    variables = module.init(jax.random.key(0), *arrays)
    assert set(variables) == {"constants"}
    assert variables["constants"]["projection"].shape == (32, 64)
    tree = {"a": {"projection": jnp.zeros((3, 32, 64))}, "b": {"rope_frequencies": jnp.ones(2)}}
    redrawn = redraw_projections(tree, jax.random.key(1))
    assert np.array_equal(redrawn["b"]["rope_frequencies"], np.ones(2))
    layers = np.asarray(redrawn["a"]["projection"])
    assert layers.shape == (3, 32, 64) and not np.allclose(layers[0], layers[1])
    again = redraw_projections(tree, jax.random.key(1))
    assert np.array_equal(again["a"]["projection"], layers)
