"""The configuration of a dataset, typed and checked; `configs/data_*.py` are read into it."""

import dataclasses
from typing import Annotated, Literal

from rf_jax.errors import InputError
from rf_jax.scene.description import FaceCount
from rf_jax.schema import Fraction, Limit, NonNegative, Positive, Seed

Interval = Annotated[
    tuple[NonNegative, NonNegative], Limit("[low, high], low <= high", lambda x: x[0] <= x[1])
]
CountRange = Annotated[
    tuple[int, int], Limit("[least, most], 0 <= least <= most", lambda x: 0 <= x[0] <= x[1])
]
PositiveCountRange = Annotated[
    tuple[int, int], Limit("[least, most], 1 <= least <= most", lambda x: 1 <= x[0] <= x[1])
]
FloorOffset = Annotated[
    tuple[float, float], Limit("[low, high], -1 <= low <= high", lambda x: -1 <= x[0] <= x[1])
]
FieldOfView = Annotated[
    tuple[float, float],
    Limit("[low, high] in degrees, 0 < low <= high < 180", lambda x: 0 < x[0] <= x[1] < 180),
]
Share = Annotated[
    tuple[Fraction, Fraction], Limit("[low, high], low <= high", lambda x: x[0] <= x[1])
]
Resolution = Annotated[int, Limit("in [1, 8192]", lambda x: 1 <= x <= 8192)]
Samples = Annotated[int, Limit("in [1, 2^24]", lambda x: 1 <= x <= 2**24)]
Depth = Annotated[int, Limit("in [1, 65536]", lambda x: 1 <= x <= 2**16)]
Family = Literal["corner", "box", "wall", "plane"]
WALLS = {
    "corner": ("plane", "wall0", "wall1"),
    "box": ("plane", "wall0", "wall1", "wall2"),
    "wall": ("plane", "wall1"),
    "plane": ("plane",),
}
"""Background pieces of each family of rooms."""

MIN_OBJECT_FACES = 32
"""Fewest faces of an object. Only special shapes have fewer; a cube, for example, has 12."""


@dataclasses.dataclass(frozen=True)
class Template:
    """One kind of scene.

    Attributes:
      family: the family of rooms, which decides the walls.
      weight: how often this template is drawn, relative to the others.
      num_objects: fewest and most random objects.
      sphere_scale: range of four times the radius of an object's bounding sphere.
      max_faces: most faces of an object; the triangle budget may allow fewer.
      shapes: which objects are drawn: any, thin ones, boxes, boxes and spheres, the special shapes,
        or those special shapes that suit scenes of several objects.
      smooth_ratio: fraction of the objects and walls that are smoothly shaded.
      jitter: whether the background pieces are moved, turned and stretched.
      floor_offset: range of the floor's height above -1, before the scene is halved.
      standing: whether objects stand on the floor, turned about their vertical axis only and with
        their bounding spheres between the walls (this needs a room without jitter), or float
        anywhere.
    """

    family: Family
    weight: NonNegative
    num_objects: CountRange
    sphere_scale: Interval = (0.8, 1.8)
    max_faces: FaceCount = 1188
    shapes: Literal["any", "thin", "boxes", "boxes_and_spheres", "special", "special_multi"] = "any"
    smooth_ratio: Fraction = 0.5
    jitter: bool = True
    floor_offset: FloorOffset = (0.15, 0.25)
    standing: bool = False

    def __post_init__(self):
        if self.standing and self.jitter:
            raise InputError("standing: standing objects need jitter = False")


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """The distribution of scenes. Lengths are in world units, angles in degrees.

    Attributes:
      templates: the kinds of scenes that are mixed.
      max_triangles: largest number of triangles in a scene, walls and lights included.
      background_cells: fewest and most cells per side of the background pieces of a scene, each a
        grid of 2 * cells^2 triangles.
      num_views: number of cameras in a scene.
      num_lights: fewest and most lights in a scene.
      light_radiance: range that each light draws its radiance from; the draw is divided by the
        number of lights, so that their sum is in the same range.
      light_scale: range of the scale along each axis of a light, an equilateral triangle with edges
        of 0.0707.
      light_facing: least cosine between the axis of a light and the direction to its target.
      light_distance, camera_distance: ranges of the distances to their targets near the origin.
      target_jitter: largest distance of these targets from the origin along each axis.
      up_jitter: largest change of a camera's up vector along each axis.
      fov: range of the full field of view.
      specular_ratio: range of the specular fraction of a material's reflectance, within [0, 1].
      mesh_files: a folder of .obj, .glb and .ply files, or a text file with one path per line;
        None for the built-in shapes.
      avoid_collisions: whether to try to keep the objects' bounding spheres apart.
    """

    templates: tuple[Template, ...]
    max_triangles: int
    background_cells: PositiveCountRange = (8, 8)
    num_views: Positive = 4
    num_lights: PositiveCountRange = (1, 8)
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

    def object_budget(
        self, template: Template, background_cells: int, num_lights: int, num_objects: int
    ) -> int:
        """Largest number of faces that each of the objects may have."""
        walls = len(WALLS[template.family]) * 2 * background_cells**2
        share = (self.max_triangles - walls - num_lights) // max(num_objects, 1)
        return min(share, template.max_faces)

    def _check_budgets(self) -> None:
        for i, template in enumerate(self.templates):
            most = template.num_objects[1]
            budget = self.object_budget(
                template, self.background_cells[1], self.num_lights[1], most
            )
            needed = MIN_OBJECT_FACES if most else 0
            if budget < needed:
                raise InputError(
                    f"templates[{i}]: {most} objects in a {template.family} of "
                    f"{self.max_triangles} triangles leave {budget} faces each, at least "
                    f"{needed} are needed; raise max_triangles or lower background_cells"
                )


@dataclasses.dataclass(frozen=True)
class CyclesConfig:
    """Settings of Blender's Cycles; the defaults are those of the published data.

    Attributes:
      max_bounces, diffuse_bounces, glossy_bounces: most bounces of a path, in all and by kind.
      adaptive_threshold: noise at which a pixel gets no more samples; 0 gives it all of them.
      filter_glossy: how much glossy reflections are blurred after blurry bounces; 0 is unbiased.
      clamp_indirect: largest value of an indirect sample; 0 for no limit.
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
    """How ground truth is rendered.

    Attributes:
      resolution: side of the images in pixels.
      spp: samples per pixel.
      max_depth: longest path in Mitsuba: 2 is direct light only, 6 has four more bounces.
      denoise: whether Open Image Denoise denoises the images, guided by albedo and normals.
      renderer: mitsuba, or cycles (which needs `--cycles_python`).
      variant: Mitsuba's variant; auto takes the fastest that runs here.
      cycles: settings of Cycles.
    """

    resolution: Resolution
    spp: Samples
    max_depth: Depth = 8
    denoise: bool = False
    renderer: Literal["mitsuba", "cycles"] = "mitsuba"
    variant: Literal["auto", "scalar_rgb", "llvm_ad_rgb", "cuda_ad_rgb"] = "auto"
    cycles: CyclesConfig = CyclesConfig()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A dataset.

    Attributes:
      num_scenes: number of scenes.
      sampler: the distribution of the scenes.
      render: how their ground truth is rendered.
      seed: seed of the dataset; scene i of a seed is always the same, in whatever order scenes are
        made.
      val_fraction, test_fraction: fractions of the scenes in the splits "val" and "test".
      min_views: fewest good views of a scene; one with fewer is replaced. A view is good if its
        mean radiance and its camera's distance from the nearest surface are at least 0.01.
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
