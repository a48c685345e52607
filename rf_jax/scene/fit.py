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

FITTED = frozenset({"extent", "camera_distance", "light_distance", "light_scale", "emission"})
"""The fields of `TrainedOn` whose values a fit changes."""


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
        offset = " ".join(f"{x + 0:.3g}" for x in self.offset)
        return (
            f"scaled by {self.scale:.4g} and moved by {offset}; emission, and so the image, "
            f"multiplied by {self.emission:.4g}"
        )


def find_fit(scene: Scene, trained_on: TrainedOn) -> Fit:
    """How a scene becomes like those that the weights saw.

    The bounding cube of what does not emit is centred on the origin and fills the `extent`.
    Emission is scaled until its sum over all triangles is in the middle of the range that the
    weights saw. A triangle that is nearer to the origin, farther away, larger or smaller than those
    ranges counts as much as one at their ends that gives the same irradiance at the origin, which
    is proportional to radiance, area and 1 / distance^2; no distance counts as less than the
    extent. Ranges that are not known are those of the published networks.

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
    total = (emission[emits] * _weights(lights, trained_on, extent)).sum()
    factor = sum(_range(trained_on, "emission")) / 2 / total if total > 0 else 1.0
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


def _weights(lights: np.ndarray, trained_on: TrainedOn, extent: float) -> np.ndarray:
    """How much more irradiance triangles [L, 3, 3] give than such within the ranges: [L]."""
    edges = lights[:, 1:] - lights[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    # The edge of an equilateral triangle of this area
    scales = np.sqrt(areas * 4 / math.sqrt(3)) / LIGHT_EDGE
    distances = np.maximum(np.linalg.norm(lights.mean(axis=1), axis=1), extent)
    size, distance = (
        values / np.clip(values, *_range(trained_on, name))
        for values, name in ((scales, "light_scale"), (distances, "light_distance"))
    )
    return (size / distance) ** 2


def _range(trained_on: TrainedOn, name: str) -> tuple[float, float]:
    return getattr(trained_on, name) or getattr(PUBLISHED, name)
