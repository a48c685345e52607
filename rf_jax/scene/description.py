"""The published JSON scene description: its fields, and how it is read."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from rf_jax import schema
from rf_jax.errors import prefix_errors
from rf_jax.files import read_json
from rf_jax.schema import Fraction, Limit, NonNegative, Seed

Vector = tuple[float, float, float]
Color = tuple[NonNegative, NonNegative, NonNegative]
FieldOfView = Annotated[float, Limit("in (0, 180)", lambda x: 0 < x < 180)]
FaceCount = Annotated[int, Limit(">= 4", lambda x: x >= 4)]
Version = Annotated[str, Limit("of the form 1.x", lambda x: bool(re.fullmatch(r"1(\.\d+)+", x)))]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Placement of an object: normalise, rotate, scale, then translate.

    Attributes:
      translation: world-space offset.
      rotation: degrees about the x axis, then the y axis, then the z axis.
      scale: factor along each world axis.
      normalize: first centre the mesh on its vertex mean and scale it to radius 0.5.
    """

    translation: Vector
    rotation: Vector
    scale: Vector
    normalize: bool = True


@dataclasses.dataclass(frozen=True)
class Material:
    """Surface of an object; colours are linear RGB.

    Attributes:
      diffuse, specular: reflectances, >= 0 (diffuse is quantised to 8 bits and ends at 1).
      roughness: in [0, 1].
      emissive: emitted radiance, >= 0.
      smooth_shading: interpolate normals across edges below 30 degrees.
      rand_tri_diffuse_seed: replaces `diffuse` by random colours drawn with this seed.
      random_diffuse_max: upper end of the random colours, in [0, 1].
      random_diffuse_type: one random colour for each of these.
    """

    diffuse: Color
    specular: Color
    roughness: Fraction
    emissive: Color
    smooth_shading: bool
    rand_tri_diffuse_seed: Seed | None = None
    random_diffuse_max: Fraction = 1.0
    random_diffuse_type: Literal["per-triangle", "per-shading-group"] = "per-shading-group"


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """A mesh file (relative to the scene's folder) with its placement and material."""

    mesh_path: str
    transform: Transform
    material: Material
    remesh: bool = False
    remesh_target_face_num: FaceCount = 2048


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera at `position` looking at `look_at`; `fov` is the full field of view in degrees."""

    position: Vector
    look_at: Vector
    up: Vector
    fov: FieldOfView


@dataclasses.dataclass(frozen=True)
class SceneDescription:
    """A scene as its JSON file describes it; at least one object and one camera."""

    scene_name: str
    version: Version
    objects: dict[str, SceneObject]
    cameras: tuple[Camera, ...]


def load_scene_description(path: str | Path) -> SceneDescription:
    """Reads a JSON scene file.

    Raises:
      InputError: the file cannot be read, is not UTF-8 JSON, or breaks the schema.
    """
    value = read_json(path)
    with prefix_errors(str(path)):
        return parse_scene_description(value)


def parse_scene_description(value: Any) -> SceneDescription:
    """Checks a decoded JSON value against the schema.

    Raises:
      InputError: names the JSON path, what was expected and what was found.
    """
    return schema.parse(SceneDescription, value)
