"""Moves and scales a scene, and its light, to where a network's training scenes were.

Scaling a scene that is lit by surfaces changes no radiance: the solid angles of the lights stay. So
the geometry and the cameras can be scaled and moved as the weights expect. Multiplying all emission
multiplies every pixel by the same number, and so a scene that is much brighter or darker than those
of the training data can be brought to their brightness as well.
"""

import dataclasses
import math

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.check import valid_triangles
from rf_jax.structs import EMISSION, Scene
from rf_jax.trained_on import LIGHT_EDGE, PUBLISHED, TrainedOn


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was done to a scene: x becomes scale x + offset, and emission becomes a multiple.

    Attributes:
      scale: factor of all lengths.
      offset: [3], added after scaling.
      emission: factor of all emitted radiance, and so of every pixel.
    """

    scale: float
    offset: tuple[float, float, float]
    emission: float

    def __str__(self) -> str:
        offset = " ".join(f"{x:.3g}" for x in self.offset)
        return (
            f"scaled by {self.scale:.4g} and moved by {offset}; emission, and so the image, "
            f"multiplied by {self.emission:.4g}"
        )


def find_fit(scene: Scene, trained_on: TrainedOn) -> Fit:
    """How a scene becomes like those that the weights saw.

    The bounding cube of what does not emit is centred on the origin and fills the `extent`.
    Emission is scaled until the irradiance at the origin is that of a light in the middle of the
    ranges of the training data: the sum over the triangles of radiance times area over squared
    distance, no distance being counted as less than the extent. Ranges that are not known are those
    of the published networks.

    Args:
      scene: valid and unbatched.
      trained_on: what the weights were trained on.

    Raises:
      InputError: the scene has no extent.
    """
    triangles, texture = valid_triangles(scene)
    emission = texture[:, EMISSION].mean(axis=1)
    emits = emission > 0
    corners = triangles[~emits if (~emits).any() else emits].reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = trained_on.extent or PUBLISHED.extent
    half_side = (high - low).max() / 2
    if not half_side > 0:
        raise InputError("cannot be fitted: all its triangles are at the same point")
    scale = extent / half_side
    offset = -scale * (low + high) / 2
    lights = scale * triangles[emits] + offset
    areas = (
        np.linalg.norm(np.cross(lights[:, 1] - lights[:, 0], lights[:, 2] - lights[:, 0]), axis=1)
        / 2
    )
    distances = np.maximum(np.linalg.norm(lights.mean(axis=1), axis=1), extent)
    irradiance = (emission[emits] * areas / distances**2).sum()
    factor = _trained_irradiance(trained_on) / irradiance if irradiance > 0 else 1.0
    return Fit(float(scale), tuple(offset.tolist()), float(factor))


def apply_fit(scene: Scene, fit: Fit) -> Scene:
    """A scene that is scaled and moved, and emits more or less; the given one stays as it is."""
    texture = np.array(scene.texture, np.float32)
    texture[:, EMISSION] *= fit.emission
    cameras = np.array(scene.camera_to_world, np.float64)
    cameras[:, :3, 3] = fit.scale * cameras[:, :3, 3] + fit.offset
    triangles = fit.scale * np.asarray(scene.triangles, np.float64) + fit.offset
    return scene.replace(
        triangles=triangles.astype(np.float32),
        texture=texture,
        camera_to_world=cameras.astype(np.float32),
    )


def _trained_irradiance(trained_on: TrainedOn) -> float:
    """The irradiance at the origin of a light in the middle of all ranges that faces it."""
    emission, scale, distance = (
        sum(getattr(trained_on, name) or getattr(PUBLISHED, name)) / 2
        for name in ("emission", "light_scale", "light_distance")
    )
    return emission * math.sqrt(3) / 4 * (scale * LIGHT_EDGE) ** 2 / distance**2
