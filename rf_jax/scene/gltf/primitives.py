"""The triangles of a glTF primitive, corner by corner, in the coordinates of its mesh."""

import functools
from typing import NamedTuple

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.gltf.file import GltfFile
from rf_jax.scene.gltf.schema import Primitive, Skin
from rf_jax.scene.triangles import check_count

TRIANGLES, STRIP, FAN = 4, 5, 6
"""The modes of primitives that have triangles; the others are points and lines."""


class Corners(NamedTuple):
    """F triangles; what a primitive lacks is None.

    Attributes:
      positions: [F, 3, 3] float64, the corners counter-clockwise as seen from the front.
      normals: [F, 3, 3], of any length.
      colors: [F, 3, 3] vertex colours, linear.
      uvs: [F, 3, 2] texture coordinates, by their number in the file.
      joints, weights: [F, 3, 4], by which a skin moves the corners.
    """

    positions: np.ndarray
    normals: np.ndarray | None
    colors: np.ndarray | None
    uvs: dict[int, np.ndarray]
    joints: np.ndarray | None
    weights: np.ndarray | None


def read_corners(file: GltfFile, primitive: Primitive, where: str) -> Corners:
    """Reads the triangles of a primitive whose mode has some.

    Args:
      file: the open file.
      primitive: of the mode TRIANGLES, STRIP or FAN.
      where: its path in the document, for messages.

    Raises:
      InputError: an array does not exist, is damaged, or does not fit the others.
    """
    names = primitive.attributes
    if names.POSITION is None:
        raise InputError(f"{where}.attributes: expected POSITION")
    positions = _attribute(file, names.POSITION, f"{where}.POSITION", (3,))
    count = len(positions)
    read = functools.partial(_attribute, file, count=count)
    faces = _faces(file, primitive, count, where)
    check_count(len(faces))
    uvs = {}
    for number in range(4):
        if (index := getattr(names, f"TEXCOORD_{number}")) is not None:
            uvs[number] = read(index, f"{where}.TEXCOORD_{number}", (2,))[faces]
    normals = joints = weights = colors = None
    if names.NORMAL is not None:
        normals = read(names.NORMAL, f"{where}.NORMAL", (3,))[faces]
    if names.COLOR_0 is not None:
        colors = read(names.COLOR_0, f"{where}.COLOR_0", (3, 4))[..., :3][faces]
    if names.JOINTS_0 is not None and names.WEIGHTS_0 is not None:
        joints = read(names.JOINTS_0, f"{where}.JOINTS_0", (4,))[faces]
        if joints.dtype.kind != "u":
            raise InputError(f"{where}.JOINTS_0: expected unsigned integers")
        weights = read(names.WEIGHTS_0, f"{where}.WEIGHTS_0", (4,))[faces]
    corners = positions[faces].astype(np.float64)
    return Corners(corners, normals, colors, uvs, joints, weights)


def place(corners: Corners, to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The triangles of a primitive in world space.

    Args:
      corners: the triangles in the coordinates of the mesh.
      to_world: [4, 4] where the mesh stands, or [F, 3, 4, 4] where a skin moves each corner.

    Returns:
      positions [F, 3, 3], and unit normals [F, 3, 3]: those of the file, or else of the faces, NaN
      for a triangle without area. A transform that mirrors also exchanges two corners, so that
      triangles still face outwards.
    """
    linear = to_world[..., :3, :3]
    with np.errstate(all="ignore"):
        positions = np.einsum("...ij,...j->...i", linear, corners.positions)
        positions += to_world[..., :3, 3]
        # The cofactors are the inverse transpose times the determinant, and exist without it
        cofactors = np.cross(np.roll(linear, -1, axis=-2), np.roll(linear, -2, axis=-2), axis=-1)
        mirrors = np.linalg.det(linear) < 0
        given = None
        if corners.normals is not None:
            given = np.einsum("...ij,...j->...i", cofactors, corners.normals)
            given = given * np.where(mirrors, -1.0, 1.0)[..., None]
            given /= np.linalg.norm(given, axis=-1, keepdims=True)
    mirrors = np.broadcast_to(mirrors, positions.shape[:2]).any(axis=1)
    order = np.where(mirrors[:, None], [0, 2, 1], [0, 1, 2])
    positions = np.take_along_axis(positions, order[..., None], axis=1)
    flat = face_normals(positions)[:, None]
    if given is None:
        return positions, np.broadcast_to(flat, positions.shape)
    given = np.take_along_axis(given, order[..., None], axis=1)
    usable = np.isfinite(given).all(axis=-1, keepdims=True) & np.isfinite(flat)
    return positions, np.where(usable, given, flat)


def skinned(
    file: GltfFile, skin: Skin, corners: Corners, worlds: dict[int, np.ndarray], where: str
) -> np.ndarray:
    """How a skin moves each corner into world space: [F, 3, 4, 4], means over its joints.

    Args:
      file: the open file.
      skin: its joints.
      corners: triangles with joints and weights.
      worlds: [4, 4] where each node stands, by its index.
      where: the path of the skin in the document.

    Raises:
      InputError: a joint does not exist, or there are too few matrices.
    """
    count = len(skin.joints)
    if not set(skin.joints) <= worlds.keys():
        raise InputError(f"{where}.joints: expected nodes of the scene")
    inverse = np.broadcast_to(np.eye(4), (count, 4, 4))
    if skin.inverseBindMatrices is not None:
        array = file.array(skin.inverseBindMatrices, f"{where}.inverseBindMatrices")
        if array.shape[1] != 16 or len(array) < count:
            raise InputError(f"{where}.inverseBindMatrices: expected {count} matrices")
        inverse = array[:count].reshape(-1, 4, 4).swapaxes(1, 2)
    if corners.joints.max() >= count:
        raise InputError(f"{where}: expected joints below {count}, found {corners.joints.max()}")
    total = corners.weights.sum(axis=-1, keepdims=True)
    weights = corners.weights / np.where(total > 0, total, 1)
    with np.errstate(all="ignore"):
        matrices = np.stack([worlds[joint] for joint in skin.joints]) @ inverse
        return sum(weights[..., i, None, None] * matrices[corners.joints[..., i]] for i in range(4))


def face_normals(positions: np.ndarray) -> np.ndarray:
    """Unit normals [F, 3] of triangles [F, 3, 3]; NaN for one without area."""
    with np.errstate(all="ignore"):
        normals = np.cross(positions[:, 1] - positions[:, 0], positions[:, 2] - positions[:, 0])
        return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def _attribute(
    file: GltfFile, index: int, where: str, widths: tuple[int, ...], count: int | None = None
) -> np.ndarray:
    """An array [count, width] of a value per vertex, its integers as they are."""
    array = file.array(index, where)
    if array.shape[1] not in widths:
        raise InputError(
            f"{where}: expected {' or '.join(map(str, widths))} numbers a vertex, "
            f"found {array.shape[1]}"
        )
    if count is not None and len(array) != count:
        raise InputError(f"{where}: expected {count} values, one a vertex, found {len(array)}")
    return array


def _faces(file: GltfFile, primitive: Primitive, num_vertices: int, where: str) -> np.ndarray:
    """The corners [F, 3] of the triangles, as indices of vertices."""
    if primitive.indices is None:
        indices = np.arange(num_vertices)
    else:
        indices = file.array(primitive.indices, f"{where}.indices")
        if indices.shape[1] != 1 or indices.dtype.kind != "u":
            raise InputError(f"{where}.indices: expected unsigned integers")
        indices = indices[:, 0].astype(np.int64)
    if len(indices) and indices.max() >= num_vertices:
        raise InputError(
            f"{where}.indices: expected indices below {num_vertices}, found {indices.max()}"
        )
    if primitive.mode == TRIANGLES:
        if len(indices) % 3:
            raise InputError(f"{where}: expected three corners a triangle, found {len(indices)}")
        return indices.reshape(-1, 3)
    if len(indices) < 3:
        return np.zeros((0, 3), np.int64)
    first = np.arange(len(indices) - 2)
    if primitive.mode == FAN:
        return indices[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)]
    odd = first % 2
    return indices[np.stack([first, first + 1 + odd, first + 2 - odd], axis=1)]
