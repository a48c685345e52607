"""The descent itself, on renderers that are one line long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rf_jax
from rf_jax.errors import InputError
from rf_jax.rendering.fitting import fit, image_loss
from rf_jax.rendering.free_parameters import Free
from rf_jax.scene.parameters import scene_parameters

FLOOR, LIGHT = Free("floor", "diffuse"), Free("light", "emission")


@pytest.fixture(scope="module")
def parameters():
    return scene_parameters(rf_jax.load_scene("cornell_box"))


def images(colour):
    """[1, 4, 4, 3] of one colour."""
    return np.broadcast_to(np.float32(colour), (1, 4, 4, 3))


def floor_only(parameters):
    return jnp.broadcast_to(parameters.objects["floor"].diffuse, (1, 4, 4, 3))


def grey(value=0.5):
    return {FLOOR.name: jnp.full(3, value)}


def test_pixels_below_zero_count_as_zero_and_can_become_brighter():
    for target in (0.0, 0.3):
        dark, black = (
            jax.value_and_grad(image_loss)(jnp.full((2,), radiance), jnp.full((2,), target))
            for radiance in (-0.01, 0.0)
        )
        assert dark[0] == black[0]
        np.testing.assert_array_equal(dark[1], black[1])
        assert (dark[1] < 0).all() == (target > 0)


def test_it_finds_a_colour_and_stays_within_bounds(parameters):
    found = fit(floor_only, parameters, [FLOOR], grey(), images([0.9, 0.1, 2.0]), steps=200)
    np.testing.assert_allclose(found.values[FLOOR.name], [0.9, 0.1, 1], atol=1e-3)
    assert found.losses.shape == (201,) and found.losses[-1] < found.losses[0]


def test_two_parameters_of_unlike_size(parameters):
    def render(parameters):
        objects = parameters.objects
        return jnp.stack([floor_only(parameters)[0], images(1)[0] * objects["light"].emission])

    start = grey() | {LIGHT.name: jnp.full(3, 1000.0)}
    targets = np.concatenate([images(0.2), images(4000)])
    found = fit(render, parameters, [FLOOR, LIGHT], start, targets, steps=300)
    np.testing.assert_allclose(found.values[FLOOR.name], np.full(3, 0.2), atol=1e-3)
    np.testing.assert_allclose(found.values[LIGHT.name], np.full(3, 4000), rtol=1e-2)


def test_places_stay_near(parameters):
    def render(parameters):
        return images(1) * jnp.exp(parameters.objects["light"].vertices.mean())

    free = Free("light", "position")
    start = {free.name: jnp.asarray([0.5, -0.8, 2.42])}
    found = fit(render, parameters, [free], start, images(1000), steps=50, max_move=0.25)
    np.testing.assert_allclose(found.values[free.name] - start[free.name], 0.25, atol=1e-6)


def test_the_best_step_counts_and_every_step_is_told(parameters):
    told = []
    found = fit(
        floor_only, parameters, [FLOOR], grey(0.2), images(0.2), steps=5, learning_rate=0.5,
        on_step=lambda loss, values: told.append((loss, float(values[FLOOR.name][0]))),
    )  # fmt: skip
    assert [loss for loss, _ in told] == found.losses.tolist()
    assert told[0] == (0.0, pytest.approx(0.2))
    np.testing.assert_allclose(found.values[FLOOR.name], 0.2)  # where it began


def test_a_loss_that_is_not_finite_stops(parameters):
    with pytest.raises(InputError, match="step 0: the loss is not finite; lower --learning_rate"):
        fit(lambda p: floor_only(p) * jnp.nan, parameters, [FLOOR], grey(), images(1), steps=3)
