"""Radiance, its encodings, and the metrics of known images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from rf_jax.images.metrics import psnr, ssim
from rf_jax.radiance import display, linear_radiance, log_radiance


@pytest.fixture(scope="module")
def images():
    """Linear radiance [2, 1, 2, 16, 16, 3], part of it above 1."""
    return np.random.default_rng(0).uniform(0, 2, (2, 1, 2, 16, 16, 3)).astype(np.float32)


@given(st.floats(1e-6, 1e6))
def test_decoding_inverts_encoding(radiance):
    log = log_radiance(np.float64(radiance))
    np.testing.assert_allclose(log, np.log10(1 + np.float64(radiance)), rtol=1e-6)
    np.testing.assert_allclose(linear_radiance(log), radiance, rtol=1e-12)


def test_small_radiance_keeps_its_bits():
    """bfloat16 ground truth, as published, would round these away."""
    radiance = jnp.float16([1e-5, 1e-3, 2e-3, 60000])
    log = log_radiance(radiance.astype(jnp.float32))
    np.testing.assert_allclose(log, np.log10(1 + np.float64(radiance)), rtol=1e-6)
    np.testing.assert_allclose(linear_radiance(log), np.float64(radiance), rtol=2e-5)


@pytest.mark.parametrize("function", [log_radiance, linear_radiance, display])
def test_arrays_keep_their_kind(function):
    assert type(function(np.ones(3, np.float32))) is np.ndarray
    assert isinstance(function(jnp.ones(3)), jax.Array)


def test_display_values():
    radiance = np.array([0, 0.5, 1, 7], np.float32)
    expected = [0, np.log2(1.5), 1, 1]
    np.testing.assert_allclose(display(log_radiance(radiance)), expected, rtol=1e-6)


def test_psnr_compares_clipped_radiance(images):
    clipped = np.clip(np.float64(images), 0, 1)
    mse = ((clipped[0] - clipped[1]) ** 2).mean((2, 3, 4))
    np.testing.assert_allclose(psnr(*images), -10 * np.log10(mse), rtol=1e-5)


def test_psnr_of_equal_images_is_infinite():
    truth = np.full((2, 4, 4, 3), 0.5, np.float32)
    np.testing.assert_allclose(psnr(truth + 0.1, truth), [20, 20], atol=1e-4)
    assert np.isposinf(psnr(truth, truth)).all()
    assert np.isposinf(psnr(truth + 7, truth + 3)).all()  # all values are clipped to 1


def test_ssim(images):
    a, b = (np.clip(np.log2(1 + x), 0, 1) for x in images)
    options = dict(channel_axis=-1, data_range=1, gaussian_weights=True, sigma=1.5)
    expected = [
        structural_similarity(a[0, v], b[0, v], use_sample_covariance=False, **options)
        for v in range(2)
    ]
    # Borders are treated differently.
    np.testing.assert_allclose(ssim(a, b)[0], expected, atol=0.05)
    np.testing.assert_allclose(ssim(b, b), 1, atol=1e-5)
