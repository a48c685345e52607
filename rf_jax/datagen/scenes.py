"""From a sampled scene to the triangles that are stored and rendered."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import trimesh

from rf_jax import schema
from rf_jax.datagen import primitives
from rf_jax.datagen.config import DataConfig, SamplerConfig
from rf_jax.datagen.primitives import Mesh
from rf_jax.datagen.sampler import SampledScene, sample_scene, scene_rng
from rf_jax.datagen.shapes import LIGHT_EDGE, background_mesh, make_mesh
from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.scene import build_scene
from rf_jax.scene.mesh import normalize_to_unit_sphere
from rf_jax.structs import Scene

MIN_DISTANCE = 0.01
"""Between a camera and the nearest surface."""

FLOOR_HEIGHT = -0.5
"""Of a room without jitter, in world units."""


@dataclasses.dataclass(frozen=True)
class GeneratedScene:
    """A scene, how it was drawn, and the meshes of its objects by mesh path."""

    scene: Scene
    sampled: SampledScene
    meshes: dict[str, Mesh]


def generate_scene(
    config: DataConfig, index: int, attempt: int, files: tuple[Path, ...]
) -> GeneratedScene:
    """Makes one scene, the same for the same arguments.

    Args:
      files: mesh files, from `shapes.find_mesh_files`.

    Raises:
      InputError: an unusable mesh file, or a camera without an up direction.
    """
    rng = scene_rng(config.seed, index, attempt)
    sampled = sample_scene(config.sampler, rng, scene_name(index))
    meshes = _meshes(config.sampler, sampled, files)
    if sampled.template.standing:
        sampled = _on_the_floor(sampled, meshes)
    scene = build_scene(sampled.description, ".", lambda path: _trimesh(meshes[path.name]))
    # As stored: what is rendered must be what the network will read
    scene = scene.replace(texture=scene.texture.astype(np.float16).astype(np.float32))
    if len(scene.triangles) > config.sampler.max_triangles:
        raise InputError(
            f"{len(scene.triangles)} triangles, expected at most {config.sampler.max_triangles}"
        )
    return GeneratedScene(scene, sampled, meshes)


def scene_name(index: int) -> str:
    return f"scene_{index:08d}"


def good_views(scene: Scene) -> np.ndarray:
    """[V] bool: cameras that are not within `MIN_DISTANCE` of a surface."""
    positions = scene.camera_to_world[:, :3, 3].astype(np.float64)
    triangles = scene.triangles.astype(np.float64)
    distances = []
    for position in positions:
        points = np.broadcast_to(position, (len(triangles), 3))
        nearest = trimesh.triangles.closest_point(triangles, points)
        distances.append(np.linalg.norm(nearest - position, axis=1).min())
    return np.array(distances) >= MIN_DISTANCE


def write_json(generated: GeneratedScene, folder: Path) -> None:
    """Writes `scene.json`, which `render.py` reads, and its meshes as OBJ into a folder."""
    for name, mesh in generated.meshes.items():
        with atomic_path(folder / name) as temporary:
            _write_obj(temporary, *mesh)
    with atomic_path(folder / "scene.json") as temporary:
        text = json.dumps(schema.to_dict(generated.sampled.description), indent=2)
        temporary.write_text(text + "\n")


def _meshes(
    config: SamplerConfig, sampled: SampledScene, files: tuple[Path, ...]
) -> dict[str, Mesh]:
    meshes = {}
    for scene_object in sampled.description.objects.values():
        path = scene_object.mesh_path
        if path in sampled.shapes:
            meshes[path] = make_mesh(sampled.shapes[path], files)
        else:
            meshes[path] = _fixed_mesh(path, config.background_cells)
    return meshes


def _on_the_floor(sampled: SampledScene, meshes: dict[str, Mesh]) -> SampledScene:
    """The scene with its random objects lowered or lifted until they touch the floor."""
    objects = dict(sampled.description.objects)
    for name, scene_object in objects.items():
        if scene_object.mesh_path in sampled.shapes:
            transform = scene_object.transform
            # Turned about the vertical only, so its lowest vertex is the mesh's
            mesh = normalize_to_unit_sphere(_trimesh(meshes[scene_object.mesh_path]))
            height = FLOOR_HEIGHT - transform.scale[2] * float(mesh.vertices[:, 2].min())
            transform = dataclasses.replace(
                transform, translation=(*transform.translation[:2], height)
            )
            objects[name] = dataclasses.replace(scene_object, transform=transform)
    description = dataclasses.replace(sampled.description, objects=objects)
    return dataclasses.replace(sampled, description=description)


@functools.cache
def _fixed_mesh(path: str, cells: int) -> Mesh:
    if path == "light.obj":
        return primitives.equilateral_triangle(LIGHT_EDGE)
    return background_mesh(path.removesuffix(".obj"), cells)


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(*mesh, process=False)


def _write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    # 17 digits: the scene that is read back is the scene that was rendered
    lines = [f"v {x:.17g} {y:.17g} {z:.17g}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in np.asarray(faces) + 1]
    path.write_text("\n".join(lines) + "\n")
