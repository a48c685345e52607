"""The rate of matrix products: that all of them are computed, and on ordinary numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.models import VARIANTS, flops


@pytest.mark.parametrize("width", [16, 48])
def test_products_keep_their_values_in_range(width):
    weights = jax.nn.initializers.orthogonal()(jax.random.key(0), (width, 32))
    x = jax.random.normal(jax.random.key(1), (5, width))
    once, often = (flops._products(x, weights, pairs) for pairs in (1, 1000))
    np.testing.assert_allclose(often, once, rtol=1e-3, atol=1e-3)


def test_every_product_takes_its_time():
    x, weights = jnp.ones((256, 256)), jnp.eye(256)
    flops._seconds(x, weights, 1)
    one, many = (min(flops._seconds(x, weights, pairs) for _ in range(5)) for pairs in (1, 64))
    assert many > 8 * one


def test_rate(config):
    for dtype in (jnp.float32, jnp.bfloat16):
        assert 1e6 < flops.measure_product_rate(config, 100, dtype) < 1e16


@pytest.mark.parametrize(
    ("normal", "scene", "context", "view"),
    [(1024, 0.28, 0.02, 0.82), (4096, 1.09, 0.06, 1.06), (65536, 21.8, 0.94, 5.77)],
)
def test_operations_of_v2(normal, scene, context, view):
    """TFLOP for 16 lights and views of 512x512 pixels, worked out apart from this code."""
    config, triangles, lights = VARIANTS["v2_200m"], normal + 16, 16
    counted = [
        flops.view_independent_flops(config, triangles, lights),
        flops.context_flops(config, triangles, lights),
        flops.view_flops(config, triangles, 512, lights),
    ]
    np.testing.assert_allclose(np.array(counted) / 1e12, (scene, context, view), 0.01, 0.006)
