"""Writes a scene as a JSON description with meshes, whose objects can be edited."""

import logging
import re
from pathlib import Path

import numpy as np

from rf_jax.errors import InputError, listed
from rf_jax.scene.check import valid_triangles
from rf_jax.scene.description import (
    Material,
    SceneDescription,
    SceneObject,
    Transform,
    save_scene_description,
)
from rf_jax.scene.gltf.primitives import face_normals
from rf_jax.scene.mesh import save_obj
from rf_jax.scene.triangles import scene_cameras
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR, Scene

_log = logging.getLogger(__name__)

SMOOTH_COSINE = np.cos(np.deg2rad(1))
"""An object is shaded smoothly if a normal of it is farther than this from its face's."""

_IN_PLACE = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), normalize=False)


def save_json(scene: Scene, path: str | Path) -> SceneDescription:
    """Writes a scene with named objects, and an OBJ file for each into the folder NAME_meshes.

    Positions stay what they are. An object has one material in a description: of one that has
    several, as textures give it, the mean by area is written, and a warning says so. Normals are
    computed anew, by flat or smooth shading.

    Args:
      scene: an unbatched scene whose objects are known.
      path: the JSON file; its folder is made if missing.

    Returns:
      what was written.

    Raises:
      InputError: the scene has no names of objects, or a file cannot be written.
    """
    path = Path(path)
    triangles, texture = valid_triangles(scene)
    if scene.objects is None or np.min(scene.objects) < 0:
        raise InputError("expected a scene whose objects have names, from a glTF or JSON file")
    keep = slice(None) if scene.valid_mask is None else np.asarray(scene.valid_mask)
    owners, normals = np.asarray(scene.objects)[keep], np.asarray(scene.vertex_normals)[keep]
    folder = path.parent / f"{path.stem}_meshes"
    objects, varied = {}, []
    for index, name in enumerate(scene.object_names):
        rows = owners == index
        if not rows.any():
            continue
        if np.ptp(texture[rows], axis=0).max() > 0:
            varied.append(name)
        mesh = folder / f"{index}_{re.sub(r'[^A-Za-z0-9]+', '_', name)[:40]}.obj"
        vertices, faces = np.unique(triangles[rows].reshape(-1, 3), axis=0, return_inverse=True)
        save_obj(mesh, vertices, faces.reshape(-1, 3))
        cosines = (face_normals(triangles[rows])[:, None] * normals[rows]).sum(axis=-1)
        material = _material(triangles[rows], texture[rows], bool(cosines.min() < SMOOTH_COSINE))
        mesh_path = mesh.relative_to(path.parent).as_posix()
        objects[name] = SceneObject(mesh_path, _IN_PLACE, material)
    if varied:
        _log.warning("the mean of their materials is written for: %s", listed(varied))
    description = SceneDescription(
        path.stem, "1.0", objects, scene_cameras(scene.camera_to_world, scene.fov_degrees)
    )
    save_scene_description(description, path)
    return description


def _material(triangles: np.ndarray, texture: np.ndarray, smooth: bool) -> Material:
    areas = np.linalg.norm(
        np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
    )
    mean = np.average(texture, axis=0, weights=areas)
    # Diffuse is rounded down to 8 bits when it is read: a value of 8 bits must not fall below
    diffuse = (np.round(255 * mean[DIFFUSE], 3) + 1e-6) / 255
    return Material(
        diffuse=tuple(np.minimum(diffuse, 1).tolist()),
        specular=tuple(mean[SPECULAR].tolist()),
        roughness=float(min(mean[ROUGHNESS][0], 1.0)),
        emissive=tuple(mean[EMISSION].tolist()),
        smooth_shading=smooth,
    )
