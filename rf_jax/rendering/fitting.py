"""Inverse rendering: free parameters of a scene, fitted to images by gradient descent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rf_jax.errors import InputError
from rf_jax.radiance import log_radiance
from rf_jax.rendering.free_parameters import Free, Values, apply_values
from rf_jax.rendering.function import RenderFunction
from rf_jax.scene.parameters import SceneParameters


class Fit(NamedTuple):
    """What `fit` found.

    Attributes:
      values: of the free parameters, those of the step with the smallest loss.
      losses: [steps + 1], before the first step and after each.
    """

    values: Values
    losses: np.ndarray


def image_loss(image: jax.Array, target: jax.Array) -> jax.Array:
    """The mean squared difference of log10(1 + radiance), in which the network makes images.

    Radiance below 0, as the network makes it where it is dark, counts as 0 and has the gradient
    that 0 has; that of a maximum would vanish, and the pixel could not become brighter.
    """
    image = image + jax.lax.stop_gradient(jnp.maximum(image, 0) - image)
    return jnp.mean(jnp.square(log_radiance(image) - log_radiance(target)))


def fit(
    render: RenderFunction,
    parameters: SceneParameters,
    free: list[Free],
    start: Values,
    targets: np.ndarray,
    *,
    steps: int = 300,
    learning_rate: float = 0.02,
    max_move: float = 1.0,
    on_step: Callable[[float, Values], None] = lambda loss, values: None,
) -> Fit:
    """Changes the free parameters so that the images of all views match the targets.

    Adam, with a learning rate that falls to 0 along a cosine, in the coordinates of
    `rf_jax.rendering.free_parameters.Kind`; after each step they are projected onto their bounds.

    Args:
      render: of `rf_jax.render_function`.
      parameters: of the scene that begins with `start`.
      free: the free parameters.
      start: their first values.
      targets: [V, H, H, 3] linear radiance >= 0, of the views and the resolution of `render`.
      steps: how many steps.
      learning_rate: of the first step, in coordinates: 0.02 of a colour or of a unit of length.
      max_move: how far places may move along each axis.
      on_step: is told the loss and the values before each step, and at the end.

    Raises:
      InputError: the loss is not finite.
    """
    coordinates = {one.name: one.kind.encode(start[one.name]) for one in free}
    bounds = {one.name: one.bounds(coordinates[one.name], max_move) for one in free}
    low, high = ({name: pair[i] for name, pair in bounds.items()} for i in (0, 1))
    loss = _loss_function(render, parameters, free, start, targets)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @jax.jit
    def step(coordinates, state):
        value, gradient = jax.value_and_grad(loss)(coordinates)
        updates, state = optimizer.update(gradient, state)
        moved = optax.apply_updates(coordinates, updates)
        return optax.projections.projection_box(moved, low, high), state, value

    state = optimizer.init(coordinates)
    best, losses = coordinates, []
    for _ in range(steps + 1):  # the last step only gives the loss of the one before it
        after, state, value = step(coordinates, state)
        losses.append(float(value))
        if not np.isfinite(losses[-1]):
            raise InputError(
                f"step {len(losses) - 1}: the loss is not finite; lower --learning_rate"
            )
        on_step(losses[-1], _decode(free, coordinates))
        best = coordinates if losses[-1] <= min(losses) else best
        coordinates = after
    return Fit(_decode(free, best), np.array(losses))


def _loss_function(render, parameters, free, start, targets):
    """The loss of coordinates."""
    target = jnp.asarray(targets, jnp.float32)

    def loss(coordinates):
        scene = apply_values(parameters, free, start, _decode(free, coordinates))
        return image_loss(render(scene), target)

    return loss


def _decode(free: list[Free], coordinates: Values) -> Values:
    return {one.name: one.kind.decode(coordinates[one.name]) for one in free}
