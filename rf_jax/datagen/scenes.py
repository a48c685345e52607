"""Turns a sampled scene into the triangles that are stored and rendered."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import trimesh

from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.primitives import Mesh
from rf_jax.datagen.sampler import SampledScene, sample_scene, scene_rng
from rf_jax.datagen.shapes import background_mesh, make_mesh
from rf_jax.errors import InputError
from rf_jax.scene import build_scene
from rf_jax.scene.description import save_scene_description
from rf_jax.scene.mesh import equilateral_triangle, normalize_to_unit_sphere, save_obj
from rf_jax.structs import Scene
from rf_jax.trained_on import LIGHT_EDGE

MIN_DISTANCE = 0.01
"""Least distance between a camera and the nearest surface."""

FLOOR_HEIGHT = -0.5
"""Height of the floor of a room without jitter, in world units."""


@dataclasses.dataclass(frozen=True)
class GeneratedScene:
    """A scene that can be rendered.

    Attributes:
      scene: the triangles, materials and cameras.
      sampled: what the scene was made from.
      meshes: meshes of its objects, by mesh path.
    """

    scene: Scene
    sampled: SampledScene
    meshes: dict[str, Mesh]


def generate_scene(
    config: DataConfig, index: int, attempt: int, files: tuple[Path, ...]
) -> GeneratedScene:
    """Makes one scene, which is always the same for the same arguments.

    Args:
      config: the dataset.
      index: index of the scene.
      attempt: number of the attempt, from 0.
      files: mesh files, from `shapes.find_mesh_files`.

    Raises:
      InputError: a mesh file is unusable, a camera has no up direction, or the scene has too many
        triangles.
    """
    rng = scene_rng(config.seed, index, attempt)
    sampled = sample_scene(config.sampler, rng, scene_name(index))
    meshes = _meshes(sampled, files)
    if sampled.template.standing:
        sampled = _on_the_floor(sampled, meshes)
    scene = build_scene(sampled.description, ".", lambda path: _trimesh(meshes[path.name]))
    # Rounded as in the file, so that what is rendered is what the network will read
    scene = scene.replace(texture=scene.texture.astype(np.float16).astype(np.float32))
    if len(scene.triangles) > config.sampler.max_triangles:
        raise InputError(
            f"{len(scene.triangles)} triangles, expected at most {config.sampler.max_triangles}"
        )
    return GeneratedScene(scene, sampled, meshes)


def scene_name(index: int) -> str:
    return f"scene_{index:08d}"


def good_views(scene: Scene) -> np.ndarray:
    """Which cameras are not within `MIN_DISTANCE` of a surface, [V] bool."""
    positions = scene.camera_to_world[:, :3, 3].astype(np.float64)
    triangles = scene.triangles.astype(np.float64)
    distances = []
    for position in positions:
        points = np.broadcast_to(position, (len(triangles), 3))
        nearest = trimesh.triangles.closest_point(triangles, points)
        distances.append(np.linalg.norm(nearest - position, axis=1).min())
    return np.array(distances) >= MIN_DISTANCE


def write_description(generated: GeneratedScene, folder: Path) -> None:
    """Writes `scene.json`, which `render.py` reads, and its meshes as OBJ files into a folder."""
    for name, mesh in generated.meshes.items():
        save_obj(folder / name, *mesh)
    save_scene_description(generated.sampled.description, folder / "scene.json")


def _meshes(sampled: SampledScene, files: tuple[Path, ...]) -> dict[str, Mesh]:
    meshes = {}
    for scene_object in sampled.description.objects.values():
        path = scene_object.mesh_path
        if path in sampled.shapes:
            meshes[path] = make_mesh(sampled.shapes[path], files)
        else:
            meshes[path] = _fixed_mesh(path, sampled.background_cells)
    return meshes


def _on_the_floor(sampled: SampledScene, meshes: dict[str, Mesh]) -> SampledScene:
    """Lowers or lifts the random objects of a scene so that they touch the floor."""
    objects = dict(sampled.description.objects)
    for name, scene_object in objects.items():
        if scene_object.mesh_path in sampled.shapes:
            transform = scene_object.transform
            # It is turned about its vertical axis only, so the mesh's lowest vertex stays lowest
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
        return equilateral_triangle(LIGHT_EDGE)
    return background_mesh(path.removesuffix(".obj"), cells)


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(*mesh, process=False)
