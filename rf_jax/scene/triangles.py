"""Builds the triangles that the network sees from meshes with transforms and materials."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from numpy.typing import ArrayLike

from rf_jax import geometry
from rf_jax.errors import InputError, prefix_errors
from rf_jax.scene import mesh as meshes
from rf_jax.scene.description import Camera, Material, SceneDescription, Transform
from rf_jax.scene.ignored import warn_of_ignored
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

MAX_TRIANGLES = 2**22
"""Most triangles of a scene: a short description could repeat a large mesh without end."""

LoadMesh = Callable[[Path], trimesh.Trimesh]


class Triangles(NamedTuple):
    """Positions [F, 3, 3], normals [F, 3, 3] and material values [F, 13] of one object, float64."""

    triangles: np.ndarray
    normals: np.ndarray
    texture: np.ndarray


def read_mesh(path: str | Path) -> trimesh.Trimesh:
    """Reads a mesh file, and logs what else it holds, which scenes ignore.

    Raises:
      InputError: as `rf_jax.scene.mesh.load_mesh`.
    """
    mesh = meshes.load_mesh(path)
    warn_of_ignored(Path(path))
    return mesh


def build_scene(
    description: SceneDescription,
    folder: str | Path,
    load_mesh: LoadMesh = read_mesh,
    quantize: bool = True,
) -> Scene:
    """Loads, places, shades and colours the objects of a description.

    Args:
      description: the scene.
      folder: folder that the mesh paths are relative to.
      load_mesh: returns the mesh at a path. Generated scenes give a function of their own, because
        their meshes are not in files.
      quantize: whether diffuse reflectances have 8 bits, as RenderFormer V1 learned them.

    Returns:
      An unbatched scene of NumPy float32 arrays, one texture value per triangle, no mask.

    Raises:
      InputError: a mesh or a camera is unusable, or there are more than `MAX_TRIANGLES`; names its
        path in the JSON file.
    """
    parts, count = {}, 0
    for name, scene_object in description.objects.items():
        with prefix_errors(f"objects.{name}"):
            path = Path(folder) / scene_object.mesh_path
            faces = scene_object.remesh_target_face_num if scene_object.remesh else None
            parts[name] = place_mesh(
                load_mesh(path),
                scene_object.transform,
                scene_object.material,
                faces,
                path,
                quantize,
            )
            count += len(parts[name].triangles)
            check_count(count)
    return assemble(parts, description.cameras)


def check_count(count: int) -> None:
    """Checks the number of triangles of a scene.

    Raises:
      InputError: there are more than `MAX_TRIANGLES`.
    """
    if count > MAX_TRIANGLES:
        raise InputError(f"expected at most {MAX_TRIANGLES:,} triangles in all objects")


def place_mesh(
    mesh: trimesh.Trimesh,
    transform: Transform,
    material: Material,
    remesh_faces: int | None,
    source: str | Path,
    quantize: bool = True,
) -> Triangles:
    """The triangles of one object of a scene, which does not change its mesh.

    Args:
      mesh: the mesh as it is in its file.
      transform: where the mesh stands.
      material: what it is made of.
      remesh_faces: about how many faces it is remeshed to before it is placed; None for not at all.
      source: name of the mesh's file, for messages.
      quantize: as in `build_scene`.

    Raises:
      InputError: the mesh cannot be normalised or remeshed, or all its triangles are degenerate.
    """
    with prefix_errors(str(source)):
        if transform.normalize:
            mesh = meshes.normalize_to_unit_sphere(mesh)
        if remesh_faces is not None:
            mesh = meshes.remesh(mesh, remesh_faces)
        mesh = meshes.apply_transform(
            mesh, transform.rotation, transform.scale, transform.translation
        )
        mesh = meshes.shade(mesh, material.smooth_shading)
        triangles = mesh.triangles.view(np.ndarray)
        texture = _texture_values(mesh, material, quantize)
        return Triangles(
            *drop_undefined_normals(triangles, meshes.corner_normals(mesh), texture, source)
        )


def assemble(parts: Mapping[str, Triangles], cameras: Sequence[Camera]) -> Scene:
    """The scene of objects, at least one, and cameras.

    Args:
      parts: the triangles of the objects by their names.
      cameras: at least one.

    Raises:
      InputError: a camera is unusable, or values are beyond float32.
    """
    triangles, normals, texture = (
        to_float32(np.concatenate(arrays)) for arrays in zip(*parts.values(), strict=True)
    )
    counts = [len(part.triangles) for part in parts.values()]
    scene = Scene(
        triangles=triangles,
        vertex_normals=normals,
        texture=texture,
        valid_mask=None,
        camera_to_world=cameras_to_world(cameras),
        fov_degrees=np.array([camera.fov for camera in cameras], np.float32),
        objects=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        object_names=tuple(parts),
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


def _texture_values(mesh: trimesh.Trimesh, material: Material, quantize: bool) -> np.ndarray:
    """Material channels [F, 13] of the faces."""
    values = np.empty((len(mesh.faces), NUM_CHANNELS))
    if material.rand_tri_diffuse_seed is None:
        diffuse = np.clip(material.diffuse, 0, 1)
        values[:, DIFFUSE] = quantized(diffuse) if quantize else diffuse
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


def cameras_to_world(cameras: Sequence[Camera]) -> np.ndarray:
    """Camera matrices [V, 4, 4], float32.

    Raises:
      InputError: a camera looks nowhere; names it.
    """
    matrices = []
    for i, camera in enumerate(cameras):
        with prefix_errors(f"cameras[{i}]"):
            matrices.append(geometry.look_at(camera.position, camera.look_at, camera.up))
    return np.stack(matrices).astype(np.float32)


def scene_camera(pose: np.ndarray, distance: float, fov_degrees: float) -> Camera:
    """The look-at camera of a scene file that has a pose.

    Args:
      pose: [4, 4] camera to world, with the axes of OpenGL.
      distance: from the camera to the point that it looks at, > 0.
      fov_degrees: full field of view.
    """
    position = pose[:3, 3]
    target = position - distance * pose[:3, 2]
    vectors = (tuple(map(float, vector)) for vector in (position, target, pose[:3, 1]))
    return Camera(*vectors, fov=float(fov_degrees))


def scene_cameras(camera_to_world: ArrayLike, fov_degrees: ArrayLike) -> tuple[Camera, ...]:
    """The look-at cameras of poses, which look as far as the origin is.

    Args:
      camera_to_world: [(1,) V, 4, 4].
      fov_degrees: [(1,) V], or one for all.
    """
    poses = np.asarray(camera_to_world, np.float64).reshape(-1, 4, 4)
    fovs = np.broadcast_to(np.ravel(fov_degrees), len(poses))
    return tuple(
        scene_camera(pose, max(float(np.linalg.norm(pose[:3, 3])), 0.1), fov)
        for pose, fov in zip(poses, fovs, strict=True)
    )
