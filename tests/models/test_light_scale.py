"""`reference_emission`: images in proportion to emission."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.models.light_scale import normalize_light, scale_light
from rf_jax.models.variants import VARIANTS
from rf_jax.radiance import linear_radiance, log_radiance
from rf_jax.structs import EMISSION, SceneTokens
from rf_jax.weights.random_weights import random_variables

PLAIN = dataclasses.replace(VARIANTS["testing"], texture_encode_patch_size=1, use_dpt_decoder=False)
CONFIG = dataclasses.replace(PLAIN, reference_emission=4.0)
CAMERA = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1, 1))
CAMERA[..., 2, 3] = 1.5
FOV = np.full((2, 1), 40.0, np.float32)


def scenes(emission):
    """Two scenes of six triangles. Three emit, at most so much, or half of it."""
    rng = np.random.default_rng(0)
    texture = rng.uniform(0, 1, (2, 6, 13)).astype(np.float32)
    texture[:, 3:, EMISSION] = 0
    texture[:, :3, EMISSION] = emission * np.array([0.3, 1.0, 0.7])[:, None]
    texture[1, :, EMISSION] /= 2
    texture[..., EMISSION] = log_radiance(texture[..., EMISSION])
    return SceneTokens(
        triangles=rng.uniform(-0.5, 0.5, (2, 6, 3, 3)).astype(np.float32),
        vertex_normals=np.zeros((2, 6, 3, 3), np.float32),
        texture=texture,
        num_triangles=np.array([6, 6], np.int32),
    )


def radiance(config, tokens):
    """Linear images [2, 1, 16, 16, C] of the scenes."""
    image = jax.jit(lambda v, t: RenderFormer(config).apply(v, t, CAMERA, FOV, 16))(
        random_variables(config, seed=1), tokens
    )
    return np.asarray(linear_radiance(image))


@pytest.mark.parametrize("factor", [0.1, 1e5, (20.0, 0.5, 0.0)], ids=str)
def test_radiance_is_proportional_to_emission(factor):
    """By one factor or by one of each colour; without a colour there is none in the image."""
    factor = np.float32(factor)
    image, changed = radiance(CONFIG, scenes(2.0)), radiance(CONFIG, scenes(2.0 * factor))
    lit = (image > 0) & (factor > 0)
    assert lit.mean() > 0.1
    expected = np.broadcast_to(factor * image, image.shape)[lit]
    np.testing.assert_allclose(changed[lit], expected, rtol=1e-4, atol=1e-5 * factor.max())
    assert not np.allclose(radiance(PLAIN, scenes(2.0 * factor))[lit], expected, rtol=0.1)
    assert not changed[..., np.broadcast_to(factor, 3) == 0].any()


def test_at_the_reference_it_is_the_plain_network():
    found, expected = (radiance(config, scenes(4.0))[0] for config in (CONFIG, PLAIN))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texels", [(), (2, 2)])
def test_each_scene_is_normalized_on_its_own(texels):
    rng = np.random.default_rng(0)
    texture = rng.uniform(0, 1, (3, 5, 13, *texels)).astype(np.float32)
    texture[1] *= 2
    texture[2, :, EMISSION] = 0
    normalized, scale = normalize_light(jnp.asarray(texture), 8.0)
    emission = linear_radiance(normalized[:, :, EMISSION])
    brightest = emission.max(axis=(1, *range(3, emission.ndim)))
    np.testing.assert_allclose(brightest, [[8] * 3, [8] * 3, [0] * 3], rtol=1e-5)
    expected = linear_radiance(texture[:, :, EMISSION])
    undone = emission * scale.reshape(3, 1, 3, *[1] * len(texels))
    np.testing.assert_allclose(undone, expected, rtol=1e-4, atol=1e-6)
    rest = np.delete(np.arange(13), EMISSION)
    np.testing.assert_array_equal(normalized[:, :, rest], texture[:, :, rest])


def test_alpha_stays_and_the_slope_at_zero_is_continuous():
    image = jnp.array([-1e-3, 0.5, 0.2, 0.7]).reshape(1, 1, 1, 1, 4)
    scale = jnp.array([[1000.0, 1.0, 10.0]])
    scaled = scale_light(image, scale).reshape(4)
    expected = scale[0, 1:] * linear_radiance(image[0, 0, 0, 0, 1:3])
    np.testing.assert_allclose(linear_radiance(scaled[1:3]), expected, rtol=1e-5)
    assert scaled[3] == image[..., 3] and scaled[0] == -1

    def red(x):
        return scale_light(jnp.full((1, 1, 1, 1, 3), x), scale)[0, 0, 0, 0, 0]

    slope = jax.vmap(jax.grad(red))
    np.testing.assert_allclose(slope(jnp.array([-1e-3, -1e-7, 1e-7])), 1000, rtol=1e-2)


def test_gradients_with_respect_to_emission_are_exact():
    """The slope of a function that is proportional to its argument is its value at one."""
    tokens, variables = scenes(3.0), random_variables(CONFIG, seed=1)

    def brightness(factor):
        texture = jnp.asarray(tokens.texture)
        emission = log_radiance(linear_radiance(texture[:, :, EMISSION]) * factor)
        changed = tokens.replace(texture=texture.at[:, :, EMISSION].set(emission))
        image = RenderFormer(CONFIG).apply(variables, changed, CAMERA, FOV, 16)
        return linear_radiance(jnp.maximum(image, 0)).sum()

    value, slope = jax.jit(jax.value_and_grad(brightness))(1.0)
    np.testing.assert_allclose(slope, value, rtol=1e-3)


def test_published_networks_see_emission_as_it_is():
    for config in VARIANTS.values():
        assert config.reference_emission is None
        assert "reference_emission" not in config.to_dict()
    assert RenderFormerConfig.from_dict(CONFIG.to_dict()) == CONFIG


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_emission": 0.0}, "reference_emission: expected a number > 0, found 0"),
        ({"use_ldr": True}, "reference_emission: needs a network .* with use_ldr = false"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RenderFormerConfig.from_dict(CONFIG.to_dict() | changes)
