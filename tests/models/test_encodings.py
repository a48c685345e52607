"""Positional encodings against closed forms and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.models.encodings import nerf_encoding, rope_frequencies, rope_rotation, rotate


def test_nerf_encoding_orders_by_component_then_frequency():
    x = np.array([[0.1, -0.4]], np.float32)
    encoded = np.asarray(nerf_encoding(x, 2))[0]
    phases = np.array([0.1, 0.2, -0.4, -0.8])
    np.testing.assert_allclose(encoded[:2], x[0])
    np.testing.assert_allclose(encoded[2:6], np.sin(phases), atol=1e-6)
    np.testing.assert_allclose(encoded[6:], np.cos(phases), atol=1e-6)


def test_nerf_encoding_without_frequencies_is_the_identity():
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(nerf_encoding(x, 0), x)


@pytest.mark.parametrize(("double", "highest"), [(False, 5.0), (True, 11.0)])
def test_rope_frequencies_are_geometric(double, highest):
    frequencies = rope_frequencies(12, double)
    assert frequencies.shape == (6,)
    np.testing.assert_allclose(frequencies[[0, -1]], [1.0, highest], rtol=1e-6)
    np.testing.assert_allclose(np.diff(np.log2(frequencies)), np.log2(highest) / 5, rtol=1e-5)


def random_heads(rng, shape=(2, 7, 3, 48)):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_rotation_is_a_rotation_of_pairs():
    rng = np.random.default_rng(0)
    x = random_heads(rng)
    positions = jnp.asarray(rng.uniform(-0.5, 0.5, (2, 7, 9)), jnp.float32)
    rotated = np.asarray(rotate(x, rope_rotation(positions, rope_frequencies(4, False), 48)))
    angles = (np.asarray(positions)[..., None] * rope_frequencies(4, False)).reshape(2, 7, 1, 18)
    angles = np.pad(angles, ((0, 0), (0, 0), (0, 0), (0, 6)))
    expected = (np.asarray(x[..., :24]) + 1j * np.asarray(x[..., 24:])) * np.exp(1j * angles)
    np.testing.assert_allclose(rotated[..., :24], expected.real, atol=1e-5)
    np.testing.assert_allclose(rotated[..., 24:], expected.imag, atol=1e-5)


def test_scores_depend_on_relative_positions_only():
    rng = np.random.default_rng(1)
    query, key = random_heads(rng), random_heads(rng)
    positions = jnp.asarray(rng.uniform(-0.5, 0.5, (2, 7, 9)), jnp.float32)
    moved = positions + jnp.asarray(rng.normal(size=(1, 1, 9)), jnp.float32)

    def scores(p):
        rotation = rope_rotation(p, rope_frequencies(4, True), 48)
        return jnp.einsum(
            "bqhd,bkhd->bhqk",
            rotate(query, rotation),
            rotate(key, rotation),
            precision=jax.lax.Precision.HIGHEST,
        )

    np.testing.assert_allclose(scores(positions), scores(moved), atol=1e-4)


def test_the_origin_does_not_rotate():
    x = random_heads(np.random.default_rng(2))
    rotation = rope_rotation(jnp.zeros((2, 7, 9)), rope_frequencies(4, False), 48)
    assert np.array_equal(rotate(x, rotation), x)


def test_rotation_keeps_the_type_of_16_bit_heads():
    x = random_heads(np.random.default_rng(3)).astype(jnp.bfloat16)
    rotation = rope_rotation(jnp.ones((2, 7, 9)), rope_frequencies(4, False), 48)
    assert rotate(x, rotation).dtype == jnp.bfloat16
