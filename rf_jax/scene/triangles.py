"""Builds the triangles that the network sees from a scene description."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from rf_jax import geometry
from rf_jax.errors import InputError, prefix_errors
from rf_jax.scene import mesh as meshes
from rf_jax.scene.description import Material, SceneDescription, SceneObject
from rf_jax.scene.validate import to_float32, validate_scene
from rf_jax.structs import (
    DIFFUSE,
    EMISSION,
    FLAT_NORMAL,
    NORMAL,
    NUM_CHANNELS,
    ROUGHNESS,
    SPECULAR,
    Scene,
    quantized,
)

_log = logging.getLogger(__name__)

LoadMesh = Callable[[Path], trimesh.Trimesh]


def build_scene(
    description: SceneDescription, folder: str | Path, load_mesh: LoadMesh = meshes.load_mesh
) -> Scene:
    """Loads, places, shades and colours the objects of a description.

    Args:
      description: the scene.
      folder: folder that the mesh paths are relative to.
      load_mesh: returns the mesh at a path. Generated scenes give a function of their own, because
        their meshes are not in files.

    Returns:
      An unbatched scene of NumPy float32 arrays, one texture value per triangle, no mask.

    Raises:
      InputError: a mesh or a camera is unusable; names its path in the JSON file.
    """
    parts = []
    for name, scene_object in description.objects.items():
        with prefix_errors(f"objects.{name}"):
            parts.append(_object_triangles(scene_object, Path(folder), load_mesh))
    triangles, normals, texture = (
        to_float32(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    scene = Scene(
        triangles=triangles,
        vertex_normals=normals,
        texture=texture,
        valid_mask=None,
        camera_to_world=_cameras_to_world(description),
        fov_degrees=np.array([camera.fov for camera in description.cameras], np.float32),
        objects=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part[0]) for part in parts]),
        object_names=tuple(description.objects),
    )
    validate_scene(scene)
    return scene


def drop_undefined_normals(
    triangles: np.ndarray, normals: np.ndarray, texture: np.ndarray, source: str | Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drops triangles whose normals are not finite, and logs their number.

    Args:
      triangles, normals, texture: arrays with N in front; `normals` is [N, 3, 3].
      source: name of the file, for the log.

    Raises:
      InputError: no triangle is left.
    """
    keep = np.isfinite(normals).all(axis=(1, 2))
    dropped = int((~keep).sum())
    if not dropped:
        return triangles, normals, texture
    if dropped == len(keep):
        raise InputError(f"all {dropped} triangles are degenerate (no finite normals)")
    _log.warning("%s: dropped %d degenerate triangles (no finite normals)", source, dropped)
    return triangles[keep], normals[keep], texture[keep]


def _object_triangles(
    scene_object: SceneObject, folder: Path, load_mesh: LoadMesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [F, 3, 3], normals [F, 3, 3] and texture values [F, 13] of one object."""
    path = folder / scene_object.mesh_path
    mesh = load_mesh(path)
    with prefix_errors(str(path)):
        mesh = _shaded(mesh, scene_object)
        triangles = mesh.triangles.view(np.ndarray)
        texture = _texture_values(mesh, scene_object.material)
        return drop_undefined_normals(triangles, meshes.corner_normals(mesh), texture, path)


def _shaded(mesh: trimesh.Trimesh, scene_object: SceneObject) -> trimesh.Trimesh:
    transform = scene_object.transform
    if transform.normalize:
        mesh = meshes.normalize_to_unit_sphere(mesh)
    if scene_object.remesh:
        mesh = meshes.remesh(mesh, scene_object.remesh_target_face_num)
    mesh = meshes.apply_transform(mesh, transform.rotation, transform.scale, transform.translation)
    smooth = scene_object.material.smooth_shading
    return meshes.smooth_shade(mesh) if smooth else meshes.flat_shade(mesh)


def _texture_values(mesh: trimesh.Trimesh, material: Material) -> np.ndarray:
    """Material channels [F, 13] of the faces; diffuse has 8 bits, as in the published files."""
    values = np.empty((len(mesh.faces), NUM_CHANNELS))
    if material.rand_tri_diffuse_seed is None:
        values[:, DIFFUSE] = quantized(material.diffuse)
    else:
        colors = meshes.random_colors(
            mesh,
            material.rand_tri_diffuse_seed,
            material.random_diffuse_max,
            material.random_diffuse_type,
        )
        values[:, DIFFUSE] = colors / 255
    values[:, SPECULAR] = material.specular
    values[:, ROUGHNESS] = material.roughness
    values[:, NORMAL] = FLAT_NORMAL
    values[:, EMISSION] = material.emissive
    return values


def _cameras_to_world(description: SceneDescription) -> np.ndarray:
    """Camera matrices [V, 4, 4], float32."""
    matrices = []
    for i, camera in enumerate(description.cameras):
        with prefix_errors(f"cameras[{i}]"):
            matrices.append(geometry.look_at(camera.position, camera.look_at, camera.up))
    return np.stack(matrices).astype(np.float32)
