"""What a dataset is made of: typed, checked configuration, read from `configs/data_*.py`."""

import dataclasses
from typing import Annotated, Literal

from rf_jax.errors import InputError
from rf_jax.scene.description import FaceCount
from rf_jax.schema import Fraction, Limit, NonNegative, Positive, Seed

Interval = Annotated[
    tuple[NonNegative, NonNegative], Limit("[low, high], low <= high", lambda x: x[0] <= x[1])
]
Count = Annotated[
    tuple[int, int], Limit("[least, most], 0 <= least <= most", lambda x: 0 <= x[0] <= x[1])
]
PositiveCount = Annotated[
    tuple[int, int], Limit("[least, most], 1 <= least <= most", lambda x: 1 <= x[0] <= x[1])
]
FloorOffset = Annotated[
    tuple[float, float], Limit("[low, high], -1 <= low <= high", lambda x: -1 <= x[0] <= x[1])
]
FieldOfView = Annotated[
    tuple[float, float], Limit("degrees, 0 < low <= high < 180", lambda x: 0 < x[0] <= x[1] < 180)
]
Share = Annotated[
    tuple[Fraction, Fraction], Limit("[low, high], low <= high", lambda x: x[0] <= x[1])
]
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
    num_objects: Count
    sphere_scale: Interval = (0.8, 1.8)
    max_faces: FaceCount = 1188
    shapes: Literal["any", "thin", "boxes", "special", "special_multi"] = "any"
    smooth_ratio: Fraction = 0.5
    jitter: bool = True
    floor_offset: FloorOffset = (0.15, 0.25)
    standing: bool = False

    def __post_init__(self):
        if self.standing and self.jitter:
            raise InputError("standing: standing objects need jitter = False")


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
    background_cells: Positive = 8
    num_views: Positive = 4
    num_lights: PositiveCount = (1, 8)
    light_radiance: Interval = (2500.0, 5000.0)
    light_scale: Interval = (2.0, 2.5)
    light_facing: Annotated[float, Limit("in [0, 0.95]", lambda x: 0 <= x <= 0.95)] = 0.0
    light_distance: Interval = (2.1, 2.7)
    camera_distance: Interval = (1.5, 2.0)
    target_jitter: NonNegative = 0.2
    up_jitter: NonNegative = 0.1
    fov: FieldOfView = (30.0, 60.0)
    specular_ratio: Share = (0.0, 1.0)
    mesh_files: str | None = None
    avoid_collisions: bool = False

    def __post_init__(self):
        if not sum(template.weight for template in self.templates) > 0:
            raise InputError("templates: expected a weight above 0, found none")
        self._check_budgets()

    def object_budget(self, template: Template, num_lights: int, num_objects: int) -> int:
        """The most faces that each of the objects may have."""
        walls = len(WALLS[template.family]) * 2 * self.background_cells**2
        share = (self.max_triangles - walls - num_lights) // max(num_objects, 1)
        return min(share, template.max_faces)

    def _check_budgets(self) -> None:
        for i, template in enumerate(self.templates):
            most = template.num_objects[1]
            budget = self.object_budget(template, self.num_lights[1], most)
            needed = MIN_OBJECT_FACES if most else 0
            if budget < needed:
                raise InputError(
                    f"templates[{i}]: {most} objects in a {template.family} of "
                    f"{self.max_triangles} triangles leave {budget} faces each, at least "
                    f"{needed} are needed; raise max_triangles or lower background_cells"
                )


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

    resolution: Positive
    spp: Positive
    max_depth: Positive = 8
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

    num_scenes: Positive
    sampler: SamplerConfig
    render: RenderConfig
    seed: Seed = 0
    val_fraction: Fraction = 0.05
    test_fraction: Fraction = 0.05
    min_views: Positive = 2

    def __post_init__(self):
        views = self.sampler.num_views
        if self.min_views > views:
            raise InputError(
                f"min_views: expected at most sampler.num_views = {views}, found {self.min_views}"
            )
        if self.val_fraction + self.test_fraction > 1:
            raise InputError("val_fraction + test_fraction: expected at most 1")
