"""Albedos of the specular lobe: as measured in Cycles, in exact limits, and after scaling."""

import numpy as np

from rf_jax.datagen import microfacet


def test_albedo_is_what_cycles_shows():
    """White furnaces in Blender 4.2; single scattering is derived from the compensated values."""
    one = microfacet.directional_albedo(np.array([1.0, 1.0]), np.array([0.5, 1.0]), True)
    np.testing.assert_allclose(one, [0.917, 0.306], atol=2e-3)
    mean = microfacet.mean_albedo(np.array([0.5, 1.0]), True)
    np.testing.assert_allclose(mean, [0.882, 0.409], atol=2e-3)


def test_a_mirror_loses_nothing():
    for correlated in (True, False):
        assert abs(microfacet.mean_albedo(np.array(0.0), correlated) - 1) < 1e-3


def test_separable_shadowing_loses_more():
    roughness = np.linspace(0.2, 1, 9)
    assert (
        microfacet.mean_albedo(roughness, False) < microfacet.mean_albedo(roughness, True)
    ).all()


def test_white_surfaces_reflect_everything():
    roughness = np.linspace(0, 1, 33)
    scale = microfacet.specular_scale(np.ones((33, 3)), roughness)
    reflected = scale * microfacet.mean_albedo(roughness, False)[:, None]
    np.testing.assert_allclose(reflected, 1, atol=1e-9)


def test_black_surfaces_reflect_nothing():
    assert not microfacet.specular_scale(np.zeros((1, 3)), np.ones(1)).any()
