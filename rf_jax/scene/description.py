"""The published JSON description of a scene: its fields, its reader and its writer."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from rf_jax import schema
from rf_jax.errors import prefix_errors
from rf_jax.files import atomic_path, read_json
from rf_jax.schema import Fraction, Limit, Seed
from rf_jax.structs import Color

Vector = tuple[float, float, float]
FieldOfView = Annotated[float, Limit("in (0, 180)", lambda x: 0 < x < 180)]
FaceCount = Annotated[int, Limit(">= 4", lambda x: x >= 4)]
Version = Annotated[str, Limit("of the form 1.x", lambda x: bool(re.fullmatch(r"1(\.\d+)+", x)))]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Placement of an object, which is normalised, rotated, scaled and translated in this order.

    Attributes:
      translation: offset in world space.
      rotation: angles in degrees about the x axis, then the y axis, then the z axis.
      scale: factor along each world axis.
      normalize: whether the mesh is first centred on the mean of its vertices and scaled to radius
        0.5.
    """

    translation: Vector
    rotation: Vector
    scale: Vector
    normalize: bool = True


@dataclasses.dataclass(frozen=True)
class Material:
    """Surface of an object; colours are linear RGB.

    Attributes:
      diffuse, specular: reflectances >= 0; diffuse is clipped at 1 and quantised to 8 bits.
      roughness: roughness in [0, 1]; the GGX alpha is its square.
      emissive: emitted radiance >= 0.
      smooth_shading: whether normals are interpolated across edges of less than 30 degrees.
      rand_tri_diffuse_seed: seed of random colours that replace `diffuse`; None for none.
      random_diffuse_max: upper limit of the random colours, in [0, 1].
      random_diffuse_type: whether each triangle or each connected smooth piece has its own colour.
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
    """A mesh with its placement and material.

    Attributes:
      mesh_path: OBJ, PLY or GLB file, relative to the folder of the scene.
      transform: where the mesh stands.
      material: what it is made of.
      remesh: whether it is remeshed isotropically before it is placed.
      remesh_target_face_num: about how many faces remeshing leaves.
    """

    mesh_path: str
    transform: Transform
    material: Material
    remesh: bool = False
    remesh_target_face_num: FaceCount = 2048


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes:
      position, look_at: where the camera and the middle of its image are, in world space.
      up: direction that points upwards in the image.
      fov: full field of view of the square image in degrees.
    """

    position: Vector
    look_at: Vector
    up: Vector
    fov: FieldOfView


@dataclasses.dataclass(frozen=True)
class SceneDescription:
    """A scene as its JSON file describes it, with at least one object and one camera.

    Attributes:
      scene_name: name of the scene, for people.
      version: version of the format, 1.x.
      objects: objects by their names; an object that emits is a light.
      cameras: the views.
    """

    scene_name: str
    version: Version
    objects: dict[str, SceneObject]
    cameras: tuple[Camera, ...]


def load_scene_description(path: str | Path) -> SceneDescription:
    """Reads a JSON scene file.

    Raises:
      InputError: the file cannot be read, is not UTF-8 JSON, or is not a scene description.
    """
    value = read_json(path)
    with prefix_errors(str(path)):
        return parse_scene_description(value)


def save_scene_description(description: SceneDescription, path: str | Path) -> None:
    """Writes a JSON scene file, which `load_scene_description` reads back as the same description.

    Raises:
      InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(schema.to_dict(description), indent=2) + "\n")


def parse_scene_description(value: Any) -> SceneDescription:
    """Checks a decoded JSON value and converts it.

    Raises:
      InputError: names the JSON path, what was expected and what was found.
    """
    return schema.parse(SceneDescription, value)


def moved_to(objects: Mapping[str, SceneObject], old: Path, new: Path) -> dict[str, SceneObject]:
    """Objects of a file in one folder for a file in another: paths lead to the same meshes."""
    return {
        name: dataclasses.replace(
            each, mesh_path=os.path.relpath((old / each.mesh_path).resolve(), new.resolve())
        )
        for name, each in objects.items()
    }
