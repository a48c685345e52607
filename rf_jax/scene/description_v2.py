"""The `scene_config.json` of RenderFormer Studio, and the environment map of a scene's JSON.

Of a prepared frame of the Studio this reads constant materials. Media and textures need programs
that this project does without (OpenVDB, a rasteriser of UV maps): they come from processed H5
files, and are refused here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from rf_jax import schema
from rf_jax.errors import InputError
from rf_jax.scene.description import Camera, Version
from rf_jax.schema import Fraction, Limit, NonNegative
from rf_jax.structs import Color

ENVIRONMENT_KEY = "env_map"
"""The key of a scene's JSON, of both generations' formats, under which V2 finds its environment."""

FROM_H5 = "which RenderFormer V2 reads from processed H5 files only"

IndexOfRefraction = Annotated[float, Limit(">= 1", lambda x: x >= 1)]

# What these say is already in the meshes of a prepared frame
_IGNORED = ("wall_holes",)


class SurfaceMaterial(NamedTuple):
    """One constant material: the name of its mapper, and the parameters that this one reads."""

    mapper: str
    parameters: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class EnvironmentMap:
    """An environment map of a scene.

    Attributes:
      env_map_path: EXR, relative to the folder of the scene.
      rotation_x, rotation_y, rotation_z: degrees about the fixed axes, in this order.
      strength: factor of the radiance.
    """

    env_map_path: str
    rotation_x: float = 0.0
    rotation_y: float = 0.0
    rotation_z: float = 0.0
    strength: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class FrameTransform:
    """The placement of a mesh, which in prepared frames leaves it where it is."""

    translation_x: float = 0.0
    translation_y: float = 0.0
    translation_z: float = 0.0
    rotation_x: float = 0.0
    rotation_y: float = 0.0
    rotation_z: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0
    scale_z: float = 1.0
    normalize: bool = True


@dataclasses.dataclass(frozen=True)
class DiffuseSpecular:
    """Linear RGB reflectances and the roughness, whose square is the GGX alpha."""

    diffuse: Color
    specular: Color
    roughness: Fraction


@dataclasses.dataclass(frozen=True)
class MetallicRoughness:
    """Blender's principled surface."""

    base_color: Color
    metallic: Fraction
    roughness: Fraction


@dataclasses.dataclass(frozen=True)
class MetallicTransmission:
    """The same, which also transmits light."""

    base_color: Color
    metallic: Fraction
    roughness: Fraction
    ior: IndexOfRefraction
    transmission_weight: Fraction


_PARAMETERS = {
    "homo_diffuse_specular": ("diffuse_specular_params", "diffspec_mapper"),
    "homo_metallic_roughness": ("metallic_roughness_params", "metallic_mapper"),
    "homo_metallic_roughness_transmission": (
        "metallic_roughness_transmission_params",
        "metallic_transmission_mapper",
    ),
}
"""By type of material: the field of its parameters, whose order is the mapper's, and the mapper."""


@dataclasses.dataclass(frozen=True)
class FrameMaterial:
    """The surface of an object: a type, and the parameters of this type."""

    material_type: Literal[
        "homo_diffuse_specular",
        "homo_metallic_roughness",
        "homo_metallic_roughness_transmission",
        "homo_measured_brdf",
        "svbrdf_diffuse_specular",
        "svbrdf_metallic_roughness",
    ]
    diffuse_specular_params: DiffuseSpecular | None = None
    metallic_roughness_params: MetallicRoughness | None = None
    metallic_roughness_transmission_params: MetallicTransmission | None = None
    measured_brdf_npy_path: str | None = None
    texture_map_path: str | None = None
    texture_map_aug_random_seed: int | None = None
    use_heightmap: bool = False
    emissive: Color | None = None
    smooth_shading: bool = True
    rand_tri_diffuse_seed: int | None = None

    def surface(self) -> SurfaceMaterial:
        """The mapper of this material with its parameters.

        Raises:
          InputError: it is no constant material, or it lacks the parameters of its type.
        """
        if self.material_type.startswith("svbrdf"):
            raise InputError(f"material_type: {self.material_type} is a UV texture, {FROM_H5}")
        if self.material_type == "homo_measured_brdf":
            raise InputError(f"material_type: {self.material_type} is measured data, {FROM_H5}")
        if self.rand_tri_diffuse_seed is not None:
            raise InputError(
                "rand_tri_diffuse_seed: the colours of triangles are not known in a prepared "
                "frame; expected null"
            )
        field, mapper = _PARAMETERS[self.material_type]
        parameters = getattr(self, field)
        if parameters is None:
            raise InputError(f"{field}: missing; {self.material_type} needs it")
        return SurfaceMaterial(mapper, _numbers(parameters))


@dataclasses.dataclass(frozen=True)
class FrameObject:
    """An object of a prepared frame; its mesh is relative to the folder of the file."""

    mesh_path: str
    transform: FrameTransform
    material: FrameMaterial
    is_background: bool = False
    is_lighting: bool = False


@dataclasses.dataclass(frozen=True)
class FrameDescription:
    """A prepared frame, with at least one object and one camera."""

    scene_name: str
    version: Version
    objects: dict[str, FrameObject]
    cameras: tuple[Camera, ...]
    env_map: EnvironmentMap | None = None


def is_frame_description(value: Any) -> bool:
    """Whether a decoded JSON value is a `scene_config.json` of the Studio, and not one of V1."""
    objects = value.get("objects") if isinstance(value, Mapping) else None
    materials = [
        each.get("material")
        for each in (objects.values() if isinstance(objects, Mapping) else ())
        if isinstance(each, Mapping)
    ]
    return any(isinstance(each, Mapping) and "material_type" in each for each in materials)


def refuse_v2(value: Any) -> None:
    """Refuses a decoded JSON value that only RenderFormer V2 renders.

    Raises:
      InputError: it is a frame of the Studio, or has an environment map.
    """
    found = ""
    if is_frame_description(value):
        found = "materials of RenderFormer Studio"
    elif isinstance(value, Mapping) and value.get(ENVIRONMENT_KEY):
        found = f"an environment map ({ENVIRONMENT_KEY})"
    if found:
        raise InputError(
            f"found {found}, which only weights of RenderFormer V2 read; give such weights, or a "
            "scene of V1"
        )


def parse_frame_description(value: dict[str, Any]) -> FrameDescription:
    """Checks a decoded JSON value and converts it.

    Raises:
      InputError: names the JSON path, what was expected and what was found.
    """
    value = {key: item for key, item in value.items() if key not in _IGNORED}
    if value.pop("volumes", None):
        raise InputError(f"volumes: the scene has participating media, {FROM_H5}")
    if value.pop("lighting", None):
        raise InputError("lighting: expected none; lights are objects that emit")
    description = schema.parse(FrameDescription, value)
    for name, each in description.objects.items():
        if each.transform != FrameTransform(normalize=False):
            raise InputError(
                f"objects.{name}.transform: expected a prepared frame, whose meshes are in world "
                'space, so the identity with "normalize": false'
            )
    return description


def split_environment(value: Any) -> tuple[Any, EnvironmentMap | None]:
    """A decoded JSON description without its environment map, and this map.

    What is no JSON object is returned as it is, for the parser of descriptions to refuse.

    Raises:
      InputError: the map's entry is malformed.
    """
    if not isinstance(value, Mapping):
        return value, None
    rest = {key: item for key, item in value.items() if key != ENVIRONMENT_KEY}
    found = value.get(ENVIRONMENT_KEY)
    return rest, schema.parse(EnvironmentMap | None, found, ENVIRONMENT_KEY)


def _numbers(parameters: Any) -> tuple[float, ...]:
    """The fields of a dataclass of numbers and colours, one after another."""
    values = dataclasses.astuple(parameters)
    return tuple(x for value in values for x in (value if isinstance(value, tuple) else (value,)))
