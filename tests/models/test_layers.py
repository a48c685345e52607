"""Layers against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.models import VARIANTS
from rf_jax.models.dpt import PatchUpsample
from rf_jax.models.layers import (
    FeedForward,
    norm,
    resize_align_corners,
    resize_by_neighbours,
    resize_by_products,
)
from rf_jax.models.products import gradients_apart, gradients_together, two_products


def image(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (5, 3), (7, 7), (1, 4), (8, 1)])
def test_resize_interpolates_between_corners(old, new):
    ramp = (
        np.linspace(0.0, 1.0, old)[None, :, None, None] if old > 1 else np.full((1, 1, 1, 1), 0.5)
    )
    grid = jnp.asarray(np.broadcast_to(ramp, (1, old, old, 2)), jnp.float32)
    resized = np.asarray(resize_align_corners(grid, new))
    expected = np.linspace(0, 1, new) if old > 1 else np.full(new, 0.5)
    assert resized.shape == (1, new, new, 2)
    np.testing.assert_allclose(resized[0, :, new // 2, 1], expected, atol=1e-6)


def test_resize_keeps_corners_and_commutes_with_a_channel_mix():
    rng = np.random.default_rng(0)
    x, mix = image(rng, 2, 5, 5, 3), image(rng, 3, 4)
    resized = resize_align_corners(x, 11)
    corners = np.ix_([0, 1], [0, -1], [0, -1])
    np.testing.assert_allclose(np.asarray(resized)[corners], np.asarray(x)[corners], atol=1e-6)
    np.testing.assert_allclose(resize_align_corners(x @ mix, 11), resized @ mix, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "side"), [(5, 7, 11), (6, 6, 4), (1, 3, 3), (4, 4, 4)])
def test_neighbours_and_products_resize_alike(height, width, side):
    x = image(np.random.default_rng(0), 2, height, width, 3)
    expected = resize_by_products(x, side)
    np.testing.assert_allclose(resize_by_neighbours(x, side), expected, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_program_contains_no_image_of_weights(platform):
    x = jax.ShapeDtypeStruct((1, 128, 128, 2), jnp.float32)
    traced = jax.jit(lambda x: resize_align_corners(x, 256)).trace(x)
    assert len(traced.lower(lowering_platforms=(platform,)).as_text()) < 4 * 2 * 256 * 128 * 2.5


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_resize_gradient_has_no_scatter(platform):
    x = image(np.random.default_rng(0), 1, 5, 5, 3)
    gradient = jax.grad(lambda x: jnp.sum(resize_align_corners(x, 11) ** 2))
    lowered = jax.jit(gradient).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert "scatter" not in lowered and ("gather" in lowered) == (platform == "cuda")


def test_an_image_of_the_right_size_is_left_as_it_is():
    x = jax.ShapeDtypeStruct((1, 5, 5, 3), jnp.float32)
    traced = jax.jit(lambda x: resize_align_corners(x, 5)).trace(x)
    assert "gather" not in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("factor", [2, 4])
def test_patch_upsample_places_each_kernel_tap(factor):
    rng = np.random.default_rng(1)
    x = image(rng, 1, 3, 3, 2)
    layer = PatchUpsample(factor, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    out = np.asarray(layer.apply(variables, x))
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    assert out.shape == (1, 3 * factor, 3 * factor, 2)
    expected = np.asarray(x)[0, 2, 1] @ kernel[:, factor - 1, 0] + bias
    np.testing.assert_allclose(out[0, 2 * factor + factor - 1, factor], expected, atol=1e-5)


@pytest.mark.parametrize("norm_type", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norms_compute_in_float32(norm_type, dtype):
    import flax.linen as nn

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norm(norm_type, "norm")(x)

    # A large mean is what an unstable variance would get wrong.
    x = jnp.asarray(np.random.default_rng(2).normal(100, 1, (4, 64)), dtype)
    out, _ = Wrapped().init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.float32
    x = np.asarray(x, np.float64)
    if norm_type == "layer_norm":
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    else:
        expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_feed_forward_closed_form(activation):
    from scipy.special import erf

    x = image(np.random.default_rng(3), 5, 8)
    transformer = dataclasses.replace(
        VARIANTS["testing"].view_independent, hidden_dim=16, activation=activation
    )
    layer = FeedForward(transformer, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    weights = {k: np.asarray(v["kernel"], np.float64) for k, v in variables["params"].items()}
    hidden = np.asarray(x, np.float64) @ weights["w1"]
    if activation == "swiglu":
        hidden = hidden / (1 + np.exp(-hidden)) * (np.asarray(x) @ weights["w3"])
    else:
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    np.testing.assert_allclose(layer.apply(variables, x), hidden @ weights["w2"], atol=1e-5)


def test_rows_that_a_norm_turns_equal_normed_rows_that_are_turned():
    x = image(np.random.default_rng(2), 2, 5, 12)
    layer = norm("rms_norm", "norm")

    def turn(rows):
        return rows[..., ::-1].reshape(*rows.shape[:-1], 3, 4)

    variables = {"params": {"scale": jnp.linspace(0.5, 2.0, 12)}}
    expected = turn(layer.apply(variables, x))
    np.testing.assert_allclose(layer.apply(variables, x, turn), expected, rtol=1e-5, atol=1e-6)


def test_two_products_have_the_gradients_of_each_and_of_both_in_one():
    rng = np.random.default_rng(3)
    x, first, second = image(rng, 2, 5, 8), image(rng, 8, 3), image(rng, 8, 3)
    d_products = image(rng, 2, 5, 3), image(rng, 2, 5, 3)
    expected = jax.vjp(lambda x, a, b: (x @ a, x @ b), x, first, second)[1](d_products)
    for gradients in (
        jax.vjp(two_products, x, first, second)[1](d_products),
        gradients_apart(x, first, second, *d_products),
        gradients_together(x, first, second, *d_products),
    ):
        for found, value in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)
