"""Lights without a size (KHR_lights_punctual) as small triangles that emit as much power.

Networks know lights as triangles that emit the same radiance L to both sides, and so, with area A,
the power 2 pi A L. A point light of intensity I emits 4 pi I, and a spot light what passes through
its cone; their triangles emit this in all directions. A directional light has an irradiance instead
of a power; its triangle stands far away and has this irradiance in the middle of the scene.
"""

import math

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.gltf.schema import Light
from rf_jax.scene.mesh import facing_triangle
from rf_jax.trained_on import LIGHT_EDGE

EDGE = 2.25 * LIGHT_EDGE / 0.5
"""Edges of these triangles in half sides of the scene's bounding cube, as in the published data."""

DISTANCE = 2.4 / 0.5
"""How far a directional light is from the middle of the scene, in half sides likewise."""

CLEARANCE = 0.5
"""A triangle's corners are at most this share of the way to the nearest surface from its middle,
so that it touches none."""

SMALLEST = 0.02
"""Smallest edge in units of `EDGE`, for lights that lie on a surface."""

KEEPS = {
    "point": "with the same power",
    "spot": "with the same power in all directions",
    "directional": "with the same irradiance in the middle of the scene",
}
"""What the triangle has in common with each kind of light."""

WATT = 683.0
"""Lumens that Blender's exporter writes for a watt (its lighting mode "Standard")."""


def emitter(
    light: Light,
    to_world: np.ndarray,
    middle: np.ndarray,
    half_side: float,
    clearance: float,
    unit: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The triangle that stands for a light.

    Args:
      light: the light; its color is linear RGB.
      to_world: [4, 4] of its node. It shines along -z.
      middle, half_side: of the bounding cube of the scene, in world space.
      clearance: distance from the light to the nearest surface.
      unit: divides the light's intensity: `WATT` or 1.

    Returns:
      corners [3, 3], and the radiance [3] that it emits to both sides.

    Raises:
      InputError: a kind of light that is not known, or one whose node has no direction.
    """
    intensity = np.array(light.color) * light.intensity / unit
    forward = -to_world[:3, 2]
    length = np.linalg.norm(forward)
    edge = EDGE * half_side
    if light.type != "point" and not length > 0:
        raise InputError("a light without a direction: its node has no scale")
    if light.type == "directional":
        position = middle - forward / length * DISTANCE * half_side
        area = _area(edge)
        return (
            facing_triangle(position, middle, edge),
            intensity * (DISTANCE * half_side) ** 2 / area,
        )
    position = to_world[:3, 3]
    circumradius = edge / math.sqrt(3)
    edge *= max(SMALLEST, min(1.0, CLEARANCE * clearance / circumradius))
    radiance = intensity * solid_angle(light) / (2 * math.pi * _area(edge))
    if light.type == "spot":
        target = position + forward / length * half_side
    else:
        distance = np.linalg.norm(position - middle)
        target = middle if distance > 1e-6 * half_side else position - [0, 0, half_side]
    return facing_triangle(position, target, edge), radiance


def solid_angle(light: Light) -> float:
    """The power of a point or spot light of intensity 1: 4 pi, or the integral over its cone.

    Between its inner and its outer angle a spot's intensity is the square of a linear function of
    the cosine, as the extension's specification advises.

    Raises:
      InputError: another kind of light, or angles that are no cone.
    """
    if light.type == "point":
        return 4 * math.pi
    if light.type != "spot":
        raise InputError(f"expected a point, spot or directional light, found {light.type!r}")
    inner, outer = light.spot.innerConeAngle, light.spot.outerConeAngle
    if not 0 <= inner <= outer <= math.pi / 2 + 1e-3 or not outer > 0:
        raise InputError(
            f"spot: expected 0 <= innerConeAngle <= outerConeAngle <= pi/2, found {inner:g} and "
            f"{outer:g}"
        )
    a, b = math.cos(inner), math.cos(outer)
    return 2 * math.pi * ((1 - a) + (a - b) / 3)


def _area(edge: float) -> float:
    return math.sqrt(3) / 4 * edge**2
