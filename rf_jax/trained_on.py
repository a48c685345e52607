"""What a network was trained on: the side of its images, and the ranges that its scenes were in.

It belongs to the weights, and so it stands in their `config.json`, under a key of its own that
other programs ignore. The published files lack the key and mean `PUBLISHED`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from rf_jax import schema
from rf_jax.schema import Limit, NonNegative, Positive

KEY = "trained_on"

Interval = Annotated[
    tuple[NonNegative, NonNegative], Limit("[low, high], low <= high", lambda x: x[0] <= x[1])
]

LIGHT_EDGE = 0.0707
"""Edge of a published light, an equilateral triangle, before it is scaled."""


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """Where the scenes were that a network learned from. None stands for what is not known.

    Attributes:
      resolution: side of the images in pixels.
      triangles: largest number of triangles in a scene.
      extent: largest absolute coordinate of a triangle that does not emit.
      camera_distance: range of the distance of cameras from the origin.
      fov: range of the full field of view in degrees.
      lights: largest number of triangles that emit.
      light_distance: range of the distance of their centres from the origin.
      light_scale: range of their longest edges, in units of `LIGHT_EDGE`.
      emission: range of the sum of the radiance that they emit.
      specular: largest specular reflectance.
      white: whether specular reflectance and emission were always without colour.
      reflectance: largest sum of diffuse and specular reflectance.
    """

    resolution: Positive
    triangles: Positive | None = None
    extent: NonNegative | None = None
    camera_distance: Interval | None = None
    fov: Interval | None = None
    lights: Positive | None = None
    light_distance: Interval | None = None
    light_scale: Interval | None = None
    emission: Interval | None = None
    specular: NonNegative | None = None
    white: bool | None = None
    reflectance: NonNegative | None = None

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "TrainedOn":
        """Reads it from the flat object of a `config.json`.

        Raises:
          InputError: it is malformed; the message names the key.
        """
        return schema.parse(cls, values[KEY], KEY) if KEY in values else PUBLISHED

    def to_config(self) -> dict[str, Any]:
        """The key and its value for a `config.json`."""
        known = {name: value for name, value in schema.to_dict(self).items() if value is not None}
        return {KEY: known}


PUBLISHED = TrainedOn(
    resolution=512,
    triangles=4096,
    extent=0.5,
    camera_distance=(1.5, 2.0),
    fov=(30.0, 60.0),
    lights=8,
    light_distance=(2.1, 2.7),
    light_scale=(2.0, 2.5),
    emission=(2500.0, 5000.0),
    white=True,
    reflectance=1.0,
)
"""The published networks, by the "Scene Setting Tips" of RenderFormer's authors."""
