"""Draws random scenes of the published distribution: objects, walls, lights and cameras.

A scene depends only on the configuration, the seed, its index and the attempt. The published
templates have a room of [-1, 1]^3. Walls and objects are drawn in these units and halved into world
space; lights and cameras are drawn in world space.
"""

import dataclasses

import numpy as np

from rf_jax.datagen.config import WALLS, Interval, SamplerConfig, Template
from rf_jax.scene.description import Camera, Material, SceneDescription, SceneObject, Transform
from rf_jax.scene.mesh import rotation_xyz

HALF = 0.5
"""Scale from the units of the templates to world space."""

SHELL_RADIUS = 0.866
"""Radius of the sphere that the directions of lights and cameras are drawn on."""

LIGHT_SPACING = 0.3
"""Least distance of two lights on that sphere."""

LIGHT_TRIES = 1000
COLLISION_TRIES = 100
BOX_LIGHT_ANGLE_DEGREES = 59.0
"""Largest angle between a light above a box and the vertical."""

ZERO = (0.0, 0.0, 0.0)

NORMAL_AXIS = {"plane": 2, "wall0": 1, "wall1": 0, "wall2": 0}
"""Axis that each background piece is perpendicular to."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A mesh that is still to be made.

    Attributes:
      kind: one of the values of `Template.shapes`.
      seed: seed of this mesh.
      max_faces: largest number of faces it may have.
    """

    kind: str
    seed: int
    max_faces: int


@dataclasses.dataclass(frozen=True)
class SampledScene:
    """A scene whose meshes are not made yet.

    Attributes:
      description: the description that its JSON file holds. The names of the objects begin with
        background_, random_object_ and light_.
      shapes: shapes of the random objects, by mesh path.
      template: the template it was drawn from.
      background_cells: cells per side of its background pieces.
    """

    description: SceneDescription
    shapes: dict[str, Shape]
    template: Template
    background_cells: int


def scene_rng(seed: int, index: int, attempt: int) -> np.random.Generator:
    """The generator of random numbers for one attempt at one scene."""
    return np.random.default_rng(np.random.SeedSequence((seed, index, attempt)))


def sample_scene(config: SamplerConfig, rng: np.random.Generator, name: str) -> SampledScene:
    """Draws a scene that has at most `config.max_triangles` triangles."""
    template = sample_template(config.templates, rng)
    num_objects = _integer(rng, template.num_objects)
    num_lights = _integer(rng, config.num_lights)
    cells = _integer(rng, config.background_cells)
    max_faces = config.object_budget(template, cells, num_lights, num_objects)
    objects = dict(sample_background(config, template, rng))
    placed, shapes = sample_objects(config, template, num_objects, max_faces, rng)
    objects |= placed
    objects |= sample_lights(config, template.family, num_lights, rng)
    cameras = tuple(sample_camera(config, template.family, rng) for _ in range(config.num_views))
    return SampledScene(SceneDescription(name, "1.0", objects, cameras), shapes, template, cells)


def sample_template(templates: tuple[Template, ...], rng: np.random.Generator) -> Template:
    weights = np.array([template.weight for template in templates])
    return templates[rng.choice(len(templates), p=weights / weights.sum())]


def sample_background(
    config: SamplerConfig, template: Template, rng: np.random.Generator
) -> dict[str, SceneObject]:
    """Draws the walls and the floor, each a square of side 2 before it is halved."""
    objects = {}
    for piece in WALLS[template.family]:
        transform = _background_transform(template, piece, rng)
        material = sample_material(config, template, "per-triangle", rng)
        objects[f"background_{piece}"] = SceneObject(f"{piece}.obj", transform, material)
    return objects


def _background_transform(template: Template, piece: str, rng: np.random.Generator) -> Transform:
    if not template.jitter:
        return Transform(ZERO, ZERO, (HALF,) * 3, normalize=False)
    axis, box = NORMAL_AXIS[piece], template.family == "box"
    rotation = rng.uniform(-1, 1, 3) * (3.0 if box else 10.0)
    rotation[axis] = rng.uniform(-180, 180)
    translation = rng.uniform(-0.05, 0.05, 3)
    if not box:
        reach = template.floor_offset if piece == "plane" else (-0.25, 0.25)
        # The published wall family moves its wall along y, that is, within its plane
        moved = 1 if (template.family, piece) == ("wall", "wall1") else axis
        translation[moved] = rng.uniform(*reach)
    scale = rng.uniform(1.0 if box else 0.9, 1.35, 3)
    return _transform(HALF * translation, rotation, HALF * scale, normalize=False)


def sample_objects(
    config: SamplerConfig,
    template: Template,
    num_objects: int,
    max_faces: int,
    rng: np.random.Generator,
) -> tuple[dict[str, SceneObject], dict[str, Shape]]:
    """Draws the random objects, and the shapes of their meshes by mesh path."""
    objects, shapes, spheres = {}, {}, []
    for i in range(num_objects):
        path = f"random_object_{i}.obj"
        sphere_scale = rng.uniform(*template.sphere_scale)
        position = rng.uniform(-1, 1, 3)
        if config.avoid_collisions:
            position = _free_position(position, sphere_scale, spheres, rng)
        spheres.append((position, sphere_scale))
        rotation = rng.uniform(-180, 180, 3)
        if template.standing:
            # The height depends on the mesh, which is made later
            position = position * (max(1 - sphere_scale / 2, 0), max(1 - sphere_scale / 2, 0), 0)
            rotation[:2] = 0
        objects[f"random_object_{i}"] = SceneObject(
            path,
            _transform(HALF * position, rotation, (HALF * sphere_scale,) * 3, True),
            sample_material(config, template, "per-shading-group", rng),
        )
        shapes[path] = Shape(template.shapes, int(rng.integers(2**32)), max_faces)
    return objects, shapes


def _free_position(
    position: np.ndarray,
    sphere_scale: float,
    spheres: list[tuple[np.ndarray, float]],
    rng: np.random.Generator,
) -> np.ndarray:
    """A position whose bounding sphere meets no other; in a crowded room, the last one tried."""
    for _ in range(COLLISION_TRIES):
        # In template units a bounding sphere's radius is half the sphere scale
        gaps = [
            np.linalg.norm(position - other) - (sphere_scale + scale) / 2
            for other, scale in spheres
        ]
        if all(gap > 0 for gap in gaps):
            break
        position = rng.uniform(-1, 1, 3)
    return position


def sample_material(
    config: SamplerConfig, template: Template, random_type: str, rng: np.random.Generator
) -> Material:
    """Draws a grey specular and a coloured diffuse reflectance, whose sum is at most 1."""
    total, ratio = rng.uniform(0.9, 1.0), rng.uniform(*config.specular_ratio)
    specular = total * ratio
    diffuse = total * (1 - ratio) * rng.uniform(0, 1, 3)
    roughness = np.clip(np.exp(rng.uniform(np.log(0.06), np.log(1.055))) - 0.05, 0.01, 1.0)
    smooth = bool(rng.random() < template.smooth_ratio)
    colored, seed = rng.random() < 0.5, int(rng.integers(10_001))
    return Material(
        diffuse=_vector(diffuse),
        specular=(float(specular),) * 3,
        roughness=float(roughness),
        emissive=ZERO,
        smooth_shading=smooth,
        rand_tri_diffuse_seed=seed if smooth and colored else None,
        random_diffuse_max=float(diffuse.max()),
        random_diffuse_type=random_type,
    )


def sample_lights(
    config: SamplerConfig, family: str, num_lights: int, rng: np.random.Generator
) -> dict[str, SceneObject]:
    """Draws small white triangles outside the room, randomly turned."""
    lights = {}
    for i, point in enumerate(sample_light_points(family, num_lights, rng)):
        target = rng.uniform(-1, 1, 3) * config.target_jitter
        direction = (point - target) / np.linalg.norm(point - target)
        position = target + direction * rng.uniform(*config.light_distance)
        radiance = rng.uniform(*config.light_radiance) / num_lights
        rotation = _light_rotation(config.light_facing, direction, rng)
        scale = rng.uniform(*config.light_scale, 3)
        lights[f"light_{i}"] = SceneObject(
            "light.obj",
            _transform(position, rotation, scale, normalize=False),
            Material((1.0,) * 3, ZERO, 1.0, (radiance,) * 3, smooth_shading=False),
        )
    return lights


def _light_rotation(facing: float, direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws [3] degrees until the light's axis, its z, is near enough to `direction`."""
    while True:
        rotation = rng.uniform(-180, 180, 3)
        if abs(rotation_xyz(rotation)[:, 2] @ direction) >= facing:
            return rotation


def sample_light_points(family: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [count, 3] points of the lights' sphere that are at least `LIGHT_SPACING` apart."""
    points = np.empty((0, 3))
    for _ in range(LIGHT_TRIES):
        point = light_shell_point(family, rng)
        if (np.linalg.norm(points - point, axis=1) >= LIGHT_SPACING).all():
            points = np.concatenate([points, point[None]])
        if len(points) == count:
            return points
    raise RuntimeError(f"no room for {count} lights {LIGHT_SPACING} apart")


def light_shell_point(family: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a point [3] uniformly by area, where the lights of a family of rooms may be.

    This is the upper hemisphere, half of it (corner), or a cap of it (box).
    """
    lowest = np.cos(np.deg2rad(BOX_LIGHT_ANGLE_DEGREES)) if family == "box" else 0.0
    azimuth = (135.0, 315.0) if family == "corner" else (0.0, 360.0)
    return _shell_point(lowest, azimuth, rng)


def sample_camera(config: SamplerConfig, family: str, rng: np.random.Generator) -> Camera:
    """Draws a camera on the open side of the room that looks at about its middle."""
    target = rng.uniform(-1, 1, 3) * config.target_jitter
    direction = camera_shell_point(family, rng) - target
    direction /= np.linalg.norm(direction)
    position = target + direction * rng.uniform(*config.camera_distance)
    up = np.array([0.0, 0.0, 1.0]) + rng.uniform(-1, 1, 3) * config.up_jitter
    up /= np.linalg.norm(up)
    fov = float(rng.uniform(*config.fov))
    return Camera(_vector(position), _vector(target), _vector(up), fov)


def camera_shell_point(family: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a point [3] uniformly by area, where the cameras of a family of rooms may be.

    This is the part of the upper hemisphere in front of the walls, or a square (box).
    """
    if family == "box":
        x, z = rng.uniform(-0.5, 0.5, 2)
        return np.array([x, -1.5, z])
    azimuths = {"plane": (0.0, 360.0), "wall": (90.0, 270.0), "corner": (180.0, 270.0)}
    return _shell_point(0.0, azimuths[family], rng)


def _shell_point(lowest: float, azimuth: Interval, rng: np.random.Generator) -> np.ndarray:
    """Draws a point of the sphere above the height lowest * radius, uniformly by area."""
    z, angle = rng.uniform(lowest, 1.0), np.deg2rad(rng.uniform(*azimuth))
    radius = np.sqrt(1 - z * z)
    return SHELL_RADIUS * np.array([radius * np.cos(angle), radius * np.sin(angle), z])


def _integer(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _vector(values: np.ndarray) -> tuple[float, float, float]:
    return tuple(float(value) for value in values)


def _transform(
    translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray, normalize: bool
) -> Transform:
    return Transform(_vector(translation), _vector(rotation), _vector(scale), normalize)
