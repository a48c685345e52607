"""The scene that is being edited, as values that do not change: an edit makes a new one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from rf_jax.errors import InputError, prefix_errors
from rf_jax.rendering.generations import AnyScene
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene_description, scene_file
from rf_jax.scene.description import (
    Camera,
    Material,
    SceneDescription,
    SceneObject,
    Transform,
    moved_to,
)
from rf_jax.scene.fit import apply_fit, find_fit
from rf_jax.scene.mesh import normalize_to_unit_sphere, remesh, rotation_xyz
from rf_jax.scene.triangles import Triangles, assemble, place_mesh, read_mesh, scene_cameras
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR, Scene, quantized

Objects = Mapping[str, SceneObject]

_CHANNELS = {
    "diffuse": DIFFUSE,
    "specular": SPECULAR,
    "roughness": ROUGHNESS,
    "emissive": EMISSION,
}


@dataclasses.dataclass(frozen=True)
class EditedScene:
    """A scene, and what an edit of it needs.

    Attributes:
      scene: what the network reads.
      path: the file that it was read from.
      cameras: the views of the file.
      objects: transforms and materials of the objects; empty for a file without objects (HDF5, or
        any file for a network of RenderFormer V2), which can be looked at only.
      meshes: the objects' meshes, normalised and remeshed, but not placed.
      parts: the objects' triangles in the world.
      description: the file, if it is JSON.
      read: the objects and their parts as they were read, if the file is not JSON. Their materials
        may vary from triangle to triangle, and edits change these parts.
    """

    scene: AnyScene
    path: Path
    cameras: tuple[Camera, ...]
    objects: Objects = dataclasses.field(default_factory=dict)
    meshes: Mapping[str, trimesh.Trimesh] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Triangles] = dataclasses.field(default_factory=dict)
    description: SceneDescription | None = None
    read: tuple[Objects, Mapping[str, Triangles]] | None = None

    def with_objects(self, objects: Objects) -> "EditedScene":
        """The scene with other transforms and materials; only what differs is placed anew.

        Args:
          objects: by the same names, with the same meshes.

        Raises:
          InputError: an object cannot be placed, or its values are beyond float32.
        """
        changed = {name: new for name, new in objects.items() if new != self.objects[name]}
        if not changed:
            return self
        parts = dict(self.parts)
        for name, new in changed.items():
            with prefix_errors(f"objects.{name}"):
                if self.read is None:
                    parts[name] = _placed(self.meshes[name], new)
                else:
                    parts[name] = _changed(self.read[1][name], self.read[0][name], new)
        scene = assemble(parts, self.cameras)
        return dataclasses.replace(self, scene=scene, objects=dict(objects), parts=parts)

    def described(self, folder: Path, cameras: tuple[Camera, ...]) -> SceneDescription:
        """The description, if there is one, for a file in `folder`, with other cameras."""
        objects = moved_to(self.objects, self.path.parent, folder)
        return dataclasses.replace(self.description, objects=objects, cameras=cameras)


def open_scene(path: str | Path, renderer: Renderer, fit: bool = False) -> EditedScene:
    """Reads a scene file, or a bundled scene, for a network.

    Args:
      path: as for `rf_jax.load_scene`.
      renderer: the network.
      fit: whether the scene is brought to where the network's training scenes were (see
        `rf_jax.scene.fit`).

    Raises:
      InputError: as `Renderer.load_scene`, or the scene cannot be fitted.
    """
    path = scene_file(path)
    if path.suffix.lower() == ".json" and renderer.config.v2 is None and not fit:
        return _open_description(path)
    scene = renderer.load_scene(path)
    if fit:
        with prefix_errors(str(path)):
            if renderer.config.v2 is not None:
                raise InputError("--fit is for weights of V1; leave it out with weights of V2")
            scene = apply_fit(scene, find_fit(scene, renderer.trained_on))
    cameras = scene_cameras(scene.camera_to_world, scene.fov_degrees)
    if not isinstance(scene, Scene) or scene.objects is None:
        return EditedScene(scene, path, cameras)
    parts = {}
    for i, name in enumerate(scene.object_names):
        mine = np.asarray(scene.objects) == i
        arrays = scene.triangles[mine], scene.vertex_normals[mine], scene.texture[mine]
        parts[name] = Triangles(*(np.asarray(array, np.float64) for array in arrays))
    objects = {name: _as_read(part) for name, part in parts.items()}
    meshes = {name: _mesh_of(part) for name, part in parts.items()}
    return EditedScene(scene, path, cameras, objects, meshes, parts, read=(objects, parts))


def _open_description(path: Path) -> EditedScene:
    description = load_scene_description(path)
    meshes, parts = {}, {}
    with prefix_errors(str(path)):
        for name, each in description.objects.items():
            with prefix_errors(f"objects.{name}"):
                meshes[name] = _prepared(path.parent / each.mesh_path, each)
                parts[name] = _placed(meshes[name], each)
        scene = assemble(parts, description.cameras)
    cameras, objects = description.cameras, description.objects
    return EditedScene(scene, path, cameras, objects, meshes, parts, description)


def _prepared(path: Path, described: SceneObject) -> trimesh.Trimesh:
    """The mesh of an object before it is placed, which no edit changes."""
    mesh = read_mesh(path)
    with prefix_errors(str(path)):
        if described.transform.normalize:
            mesh = normalize_to_unit_sphere(mesh)
        if described.remesh:
            mesh = remesh(mesh, described.remesh_target_face_num)
    return mesh


def _placed(mesh: trimesh.Trimesh, described: SceneObject) -> Triangles:
    transform = dataclasses.replace(described.transform, normalize=False)
    return place_mesh(mesh, transform, described.material, None, described.mesh_path)


def _as_read(part: Triangles) -> SceneObject:
    """The object of triangles that are where they are, and of their mean material."""
    mean = part.texture.mean(axis=0)
    values = {field: mean[channels] for field, channels in _CHANNELS.items()}
    values |= {field: _vector(values[field]) for field in ("diffuse", "specular", "emissive")}
    material = Material(**values | {"roughness": float(mean[ROUGHNESS][0])}, smooth_shading=False)
    place = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), normalize=False)
    return SceneObject("", place, material)


def _mesh_of(part: Triangles) -> trimesh.Trimesh:
    corners = part.triangles.reshape(-1, 3)
    return trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)


def _changed(part: Triangles, before: SceneObject, after: SceneObject) -> Triangles:
    """Triangles that are moved, and whose materials get the values that differ.

    Raises:
      InputError: a factor of the scale is 0.
    """
    transform = after.transform
    if not np.all(transform.scale):
        raise InputError(f"transform.scale: expected no factor of 0, found {transform.scale}")
    matrix = np.array(transform.scale)[:, None] * rotation_xyz(np.array(transform.rotation))
    triangles = part.triangles @ matrix.T + transform.translation
    normals = part.normals @ np.linalg.inv(matrix)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    if np.linalg.det(matrix) < 0:  # faces still point outwards
        triangles, normals = triangles[:, ::-1], normals[:, ::-1]
    texture = part.texture.copy()
    for field, channels in _CHANNELS.items():
        value = getattr(after.material, field)
        if value != getattr(before.material, field):
            texture[:, channels] = quantized(value) if field == "diffuse" else value
    return Triangles(triangles, normals, texture)


def pivot_of(mesh: trimesh.Trimesh) -> np.ndarray:
    """The point [3] of a mesh that its handle holds: the middle of its bounding box."""
    return mesh.bounds.mean(axis=0)


def position_of(transform: Transform, pivot: np.ndarray) -> np.ndarray:
    """Where the pivot [3] of a placed mesh is in the world."""
    turned = rotation_xyz(np.array(transform.rotation)) @ pivot
    return np.array(transform.scale) * turned + transform.translation


def with_pose(
    transform: Transform,
    pivot: np.ndarray,
    position: ArrayLike | None = None,
    rotation: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Transform:
    """A transform that is moved, turned or scaled about the pivot.

    Scene files turn an object before they scale it along the axes of the world. So an object of
    different scales is turned within its stretched space, and keeps the directions of its stretch.

    Args:
      transform: what to change; what is None stays, and so does the place of the pivot.
      pivot: [3] a point of the mesh.
      position: [3] of the pivot in the world.
      rotation: [3] degrees about the fixed axes x, then y, then z.
      scale: [3] factors along the axes of the world.
    """
    position = position_of(transform, pivot) if position is None else np.asarray(position)
    scale = transform.scale if scale is None else scale
    rotation = transform.rotation if rotation is None else rotation
    changed = Transform((0.0, 0.0, 0.0), _vector(rotation), _vector(scale), transform.normalize)
    return dataclasses.replace(changed, translation=_vector(position - position_of(changed, pivot)))


def quaternion(degrees: ArrayLike) -> np.ndarray:
    """The turn of a transform as [4], w first."""
    return Rotation.from_matrix(rotation_xyz(np.asarray(degrees))).as_quat(scalar_first=True)


def degrees_of(wxyz: ArrayLike) -> tuple[float, float, float]:
    """The turn of a quaternion as a transform has it; the inverse of `quaternion`."""
    rotation = Rotation.from_quat(wxyz, scalar_first=True)
    # At 90 degrees about y one of the other angles is free, which does no harm
    return _vector(rotation.as_euler("xyz", degrees=True, suppress_warnings=True))


def _vector(values: ArrayLike) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def split_color(color: ArrayLike) -> tuple[float, tuple[int, int, int]]:
    """The strength of a linear colour, its largest channel, and its hue as the page picks it.

    Returns:
      strength >= 0, and the colour over its strength, sRGB encoded in 8 bits; white for black.
    """
    color = np.asarray(color, np.float64)
    strength = float(color.max())
    linear = color / strength if strength > 0 else np.ones(3)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(channel) for channel in np.rint(255 * encoded))
    return strength, (red, green, blue)


def join_color(strength: float, hue: tuple[int, int, int]) -> tuple[float, float, float]:
    """The linear colour of a strength and a hue; the inverse of `split_color`, up to 8 bits.

    The encoding is that of sRGB (IEC 61966-2-1).
    """
    encoded = np.asarray(hue, np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return _vector(strength * linear / max(linear.max(), 1e-12))
