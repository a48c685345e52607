"""The scene that is being edited, as values that do not change: an edit makes a new one."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from rf_jax.errors import prefix_errors
from rf_jax.rendering.generations import AnyScene
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene_description, scene_file
from rf_jax.scene.description import Camera, SceneDescription, SceneObject, Transform
from rf_jax.scene.mesh import normalize_to_unit_sphere, remesh, rotation_xyz
from rf_jax.scene.triangles import Triangles, assemble, place_mesh, read_mesh

Objects = Mapping[str, SceneObject]


@dataclasses.dataclass(frozen=True)
class EditedScene:
    """A scene, and what an edit of it needs.

    Attributes:
      scene: what the network reads.
      path: the file that it was read from.
      description: the objects as a scene file describes them; None for a file without objects
        (HDF5, or any file for a network of RenderFormer V2), which can be looked at only.
      meshes: the objects' meshes, normalised and remeshed, but not placed.
      parts: the objects' triangles in the world.
    """

    scene: AnyScene
    path: Path
    description: SceneDescription | None = None
    meshes: Mapping[str, trimesh.Trimesh] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Triangles] = dataclasses.field(default_factory=dict)

    @property
    def objects(self) -> Objects:
        return {} if self.description is None else self.description.objects

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
                parts[name] = _placed(self.meshes[name], new)
        description = dataclasses.replace(self.description, objects=dict(objects))
        scene = assemble(parts, description.cameras)
        return dataclasses.replace(self, scene=scene, description=description, parts=parts)

    def saved_description(self, folder: Path, cameras: tuple[Camera, ...]) -> SceneDescription:
        """The description for a scene file in `folder`, with other cameras."""
        here = self.path.parent.resolve()
        objects = {
            name: dataclasses.replace(
                each, mesh_path=os.path.relpath(here / each.mesh_path, folder.resolve())
            )
            for name, each in self.objects.items()
        }
        return dataclasses.replace(self.description, objects=objects, cameras=cameras)


def open_scene(path: str | Path, renderer: Renderer) -> EditedScene:
    """Reads a scene file, or a bundled scene, for a network.

    Raises:
      InputError: as `Renderer.load_scene`.
    """
    path = scene_file(path)
    if path.suffix.lower() != ".json" or renderer.config.v2 is not None:
        return EditedScene(renderer.load_scene(path), path)
    description = load_scene_description(path)
    meshes, parts = {}, {}
    with prefix_errors(str(path)):
        for name, each in description.objects.items():
            with prefix_errors(f"objects.{name}"):
                meshes[name] = _prepared(path.parent / each.mesh_path, each)
                parts[name] = _placed(meshes[name], each)
        return EditedScene(assemble(parts, description.cameras), path, description, meshes, parts)


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
