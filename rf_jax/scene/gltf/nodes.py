"""The tree of nodes of a glTF file: where its meshes, cameras and lights stand."""

from typing import NamedTuple

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.gltf.file import item
from rf_jax.scene.gltf.schema import Document, Node

Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""From glTF's world, in which y points up, to that of scenes, in which z does: [4, 4]."""


class PlacedNode(NamedTuple):
    """A node that the scene shows.

    Attributes:
      index: its place in the document.
      node: the node itself.
      to_world: [4, 4] float64, from its own coordinates to world space with z up.
    """

    index: int
    node: Node
    to_world: np.ndarray


def placed_nodes(document: Document) -> list[PlacedNode]:
    """The nodes of the document's default scene, parents before children.

    Raises:
      InputError: a node does not exist or is reached twice, or a transform is not finite.
    """
    nodes = document.nodes
    if document.scenes:
        roots = item(document.scenes, document.scene, "scene").nodes
    else:
        inner = {child for node in nodes for child in node.children}
        roots = [index for index in range(len(nodes)) if index not in inner]
    placed: list[PlacedNode] = []
    seen: set[int] = set()
    waiting = [(index, Z_UP, "scene") for index in reversed(roots)]
    while waiting:
        index, parent, where = waiting.pop()
        node = item(nodes, index, where)
        if index in seen:
            raise InputError(f"nodes[{index}]: reached twice; nodes must form a tree")
        seen.add(index)
        with np.errstate(all="ignore"):
            to_world = parent @ local_matrix(node, f"nodes[{index}]")
        if not np.isfinite(to_world).all():
            raise InputError(f"nodes[{index}]: its transform is beyond floating-point numbers")
        placed.append(PlacedNode(index, node, to_world))
        waiting += [(child, to_world, f"nodes[{index}]") for child in reversed(node.children)]
    return placed


def local_matrix(node: Node, where: str) -> np.ndarray:
    """The matrix [4, 4] of a node in its parent: its `matrix`, or scale, rotation, translation.

    Raises:
      InputError: the matrix is not affine, or the quaternion is zero.
    """
    if node.matrix is not None:
        matrix = np.reshape(node.matrix, (4, 4)).T
        if not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise InputError(f"{where}.matrix: expected a last row of 0, 0, 0, 1")
        return matrix
    matrix = np.eye(4)
    matrix[:3, :3] = quaternion_matrix(np.array(node.rotation), where) * node.scale
    matrix[:3, 3] = node.translation
    return matrix


def quaternion_matrix(quaternion: np.ndarray, where: str) -> np.ndarray:
    """The rotation [3, 3] of a quaternion (x, y, z, w), which is normalised first."""
    length = np.linalg.norm(quaternion)
    if not 1e-6 < length < 1e6:
        raise InputError(f"{where}.rotation: expected a unit quaternion, found one of {length:g}")
    x, y, z, w = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rigid(to_world: np.ndarray) -> np.ndarray | None:
    """The pose [4, 4] of a camera in a node: its -z axis stays, then +y, and no scale is left.

    None if an axis has no length.
    """
    axes = to_world[:3, :3]
    backward, up = axes[:, 2], axes[:, 1]
    right = np.cross(up, backward)
    lengths = np.linalg.norm(backward), np.linalg.norm(right)
    if not min(lengths) > 0:
        return None
    pose = np.eye(4)
    pose[:3, 2], pose[:3, 0] = backward / lengths[0], right / lengths[1]
    pose[:3, 1] = np.cross(pose[:3, 2], pose[:3, 0])
    pose[:3, 3] = to_world[:3, 3]
    return pose
