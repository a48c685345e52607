"""What a dataset is made of: typed, checked configuration, read from `configs/data_*.py`."""

import dataclasses
import runpy
from typing import Any, Literal

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from rf_jax.errors import InputError, prefix_errors
from rf_jax.scene.schema import FaceCount, Fraction, NonNegative, Seed, parse_dataclass

Interval = tuple[float, float]
Family = Literal["corner", "box", "wall", "plane"]
WALLS = {
    "corner": ("plane", "wall0", "wall1"),
    "box": ("plane", "wall0", "wall1", "wall2"),
    "wall": ("plane", "wall1"),
    "plane": ("plane",),
}
"""The background pieces of each family of rooms."""

MIN_OBJECT_FACES = 32
"""No object is made of fewer faces, but for the special ones (a cube has 12)."""


@dataclasses.dataclass(frozen=True)
class Template:
    """One kind of scene.

    Attributes:
      family: of rooms.
      weight: how often this template is drawn, against the others'.
      num_objects: least and most.
      sphere_scale: four times the radius of an object's bounding sphere.
      max_faces: of an object; the triangle budget may allow fewer.
      shapes: any object, thin ones, boxes, or the special few (all, or
        those for scenes of several).
      smooth_ratio: how many objects and walls are smoothly shaded.
      jitter: move, turn and stretch the background pieces.
      floor_offset: height of the floor above -1, before scenes are halved.
      standing: objects stand on the floor of a room without jitter, turned about the vertical
        only, their bounding spheres between the walls; else they float anywhere.
    """

    family: Family
    weight: NonNegative
    num_objects: tuple[int, int]
    sphere_scale: Interval = (0.8, 1.8)
    max_faces: FaceCount = 1188
    shapes: Literal["any", "thin", "boxes", "special", "special_multi"] = "any"
    smooth_ratio: Fraction = 0.5
    jitter: bool = True
    floor_offset: Interval = (0.15, 0.25)
    standing: bool = False


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """The distribution of scenes; lengths and angles in world units and degrees.

    Attributes:
      templates: the mixture.
      max_triangles: of a scene, with its walls and lights.
      background_cells: a background piece is a grid of 2 * cells^2 triangles.
      num_views: cameras of a scene.
      num_lights: least and most.
      light_radiance: sum over the lights, about: each has its draw divided by their number.
      light_scale: per axis, of an equilateral triangle of edge 0.0707.
      light_facing: least cosine between a light's axis and the direction to its target.
      light_distance, camera_distance: from their targets near the origin.
      target_jitter: of these targets, along each axis.
      up_jitter: of the cameras' up vectors.
      fov: full field of view.
      specular_ratio: part of a material's reflectance that is specular, at most 1.
      mesh_files: a folder, or a text file with one path a line, of .obj, .glb and .ply files;
        None: built-in shapes.
      avoid_collisions: try to keep the objects' bounding spheres apart.
    """

    templates: tuple[Template, ...]
    max_triangles: int
    background_cells: int = 8
    num_views: int = 4
    num_lights: tuple[int, int] = (1, 8)
    light_radiance: Interval = (2500.0, 5000.0)
    light_scale: Interval = (2.0, 2.5)
    light_facing: Fraction = 0.0
    light_distance: Interval = (2.1, 2.7)
    camera_distance: Interval = (1.5, 2.0)
    target_jitter: NonNegative = 0.2
    up_jitter: NonNegative = 0.1
    fov: Interval = (30.0, 60.0)
    specular_ratio: Interval = (0.0, 1.0)
    mesh_files: str | None = None
    avoid_collisions: bool = False

    def object_budget(self, template: Template, num_lights: int, num_objects: int) -> int:
        """The most faces that each of the objects may have."""
        walls = len(WALLS[template.family]) * 2 * self.background_cells**2
        share = (self.max_triangles - walls - num_lights) // max(num_objects, 1)
        return min(share, template.max_faces)


@dataclasses.dataclass(frozen=True)
class CyclesConfig:
    """Blender's Cycles; the defaults are those of the published data.

    Attributes:
      adaptive_threshold: noise at which pixels stop early; 0: never.
      filter_glossy: blurs glossy reflections after blurry bounces; 0: unbiased.
      clamp_indirect: limit of indirect samples; 0: none.
      device: CPU, or GPU for the first kind that works (OptiX, CUDA, HIP, oneAPI, Metal).
    """

    max_bounces: int = 12
    diffuse_bounces: int = 4
    glossy_bounces: int = 4
    adaptive_threshold: NonNegative = 0.01
    filter_glossy: NonNegative = 1.0
    clamp_indirect: NonNegative = 10.0
    device: Literal["CPU", "GPU"] = "CPU"


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """Ground truth.

    Attributes:
      renderer: mitsuba, or cycles (which needs `--cycles_python`).
      variant: of Mitsuba; auto takes the fastest that runs here.
      resolution: image side in pixels.
      spp: samples a pixel.
      max_depth: of Mitsuba's paths: 2 is direct light, 6 has four more bounces.
      denoise: by Open Image Denoise, with albedo and normals as guides.
    """

    resolution: int
    spp: int
    max_depth: int = 8
    denoise: bool = False
    renderer: Literal["mitsuba", "cycles"] = "mitsuba"
    variant: Literal["auto", "scalar_rgb", "llvm_ad_rgb", "cuda_ad_rgb"] = "auto"
    cycles: CyclesConfig = CyclesConfig()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A dataset.

    Attributes:
      seed: scene i of a seed is the same everywhere, in whatever order scenes are made.
      val_fraction, test_fraction: of the scenes that the index sets aside.
      min_views: scenes with fewer good views are replaced; a view is good if its mean radiance
        and its camera's distance from the nearest surface are at least 0.01.
    """

    num_scenes: int
    sampler: SamplerConfig
    render: RenderConfig
    seed: Seed = 0
    val_fraction: Fraction = 0.05
    test_fraction: Fraction = 0.05
    min_views: int = 2

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_config(path: str, overrides: list[str] | None = None) -> DataConfig:
    """Reads a configuration file.

    Args:
      path: a Python file with `get_config()`.
      overrides: such as `--config.num_scenes=50`, of any field but the templates.

    Raises:
      InputError: no such file, an unknown key, a value of another type or out of range.
    """
    try:
        config = runpy.run_path(path)["get_config"]().to_dict()
    except KeyError as error:
        raise InputError(f"{path}: expected a function get_config()") from error
    except Exception as error:  # it is a program, and may do anything
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    with prefix_errors(path):
        return _overridden(parse_config(config), overrides or [])


def _overridden(config: DataConfig, overrides: list[str]) -> DataConfig:
    value = ConfigDict(config.to_dict())
    if config.sampler.mesh_files is None:
        value.sampler.mesh_files = config_dict.placeholder(str)
    values = flags.FlagValues()
    arguments = ["", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", value, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (AttributeError, KeyError) as error:
        raise InputError(f"unknown key {error.args[0]}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return parse_config(values.config.to_dict())


def parse_config(value: dict[str, Any]) -> DataConfig:
    """Checks a configuration given as plain values.

    Raises:
      InputError: names the key, what was expected and what was found.
    """
    config = parse_dataclass(DataConfig, value)
    _check_intervals(config, "")
    sampler, render = config.sampler, config.render
    positive = {
        "num_scenes": config.num_scenes,
        "min_views": config.min_views,
        "sampler.background_cells": sampler.background_cells,
        "sampler.num_views": sampler.num_views,
        "sampler.num_lights[0]": sampler.num_lights[0],
        "render.resolution": render.resolution,
        "render.spp": render.spp,
        "render.max_depth": render.max_depth,
    }
    for name, number in positive.items():
        if number < 1:
            raise InputError(f"{name}: expected at least 1, found {number}")
    if config.min_views > sampler.num_views:
        raise InputError(
            f"min_views: expected at most sampler.num_views = {sampler.num_views}, "
            f"found {config.min_views}"
        )
    if config.val_fraction + config.test_fraction > 1:
        raise InputError("val_fraction + test_fraction: expected at most 1")
    if not 0 < sampler.fov[0] <= sampler.fov[1] < 180:
        raise InputError(f"sampler.fov: expected degrees in (0, 180), found {list(sampler.fov)}")
    at_most = {
        "specular_ratio": (sampler.specular_ratio[1], 1),
        "light_facing": (sampler.light_facing, 0.95),
    }
    for name, (number, most) in at_most.items():
        if number > most:
            raise InputError(f"sampler.{name}: expected at most {most}, found {number}")
    for i, template in enumerate(sampler.templates):
        if template.standing and template.jitter:
            raise InputError(f"sampler.templates[{i}]: standing objects need jitter = False")
    if not sum(template.weight for template in sampler.templates) > 0:
        raise InputError("sampler.templates: expected a weight above 0, found none")
    _check_budgets(sampler)
    return config


def _check_intervals(config: Any, where: str) -> None:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            _check_intervals(value, f"{name}.")
        elif field.name == "templates":
            for i, template in enumerate(value):
                _check_intervals(template, f"{name}[{i}].")
        elif isinstance(value, tuple):
            low, high = value
            least = -1 if field.name == "floor_offset" else 0
            if not least <= low <= high:
                raise InputError(
                    f"{name}: expected [low, high], {least} <= low <= high, found [{low}, {high}]"
                )


def _check_budgets(sampler: SamplerConfig) -> None:
    for i, template in enumerate(sampler.templates):
        most = template.num_objects[1]
        budget = sampler.object_budget(template, sampler.num_lights[1], most)
        needed = MIN_OBJECT_FACES if most else 0
        if budget < needed:
            raise InputError(
                f"sampler.templates[{i}]: {most} objects in a {template.family} of "
                f"{sampler.max_triangles} triangles leave {budget} faces each, at least "
                f"{needed} are needed; raise max_triangles or lower background_cells"
            )
