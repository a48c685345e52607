"""Meshes of a scene: reading, writing, placing, shading, remeshing, random colours.

No function changes the mesh it is given. The corners of each face keep their order.
"""

import io
import math
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import ArrayLike

from rf_jax import geometry
from rf_jax.errors import InputError, needs_extra, one_line, prefix_errors
from rf_jax.files import atomic_path, read_bytes
from rf_jax.scene.mesh_formats import CHECKS
from rf_jax.schema import FLOAT32_MAX

MAX_MESH_BYTES = 256 * 2**20
"""Largest mesh file that is read."""

CREASE_ANGLE_DEGREES = 30.0
"""Angle between two faces from which smooth shading keeps their edge sharp."""


def load_mesh(path: str | Path) -> trimesh.Trimesh:
    """Reads an OBJ, PLY or GLB file as one mesh, with the vertices as they are in the file.

    Raises:
      InputError: the file is missing, unreadable or larger than `MAX_MESH_BYTES`; it has no faces,
        a vertex that is not a finite float32, or a face whose vertex does not exist; or it asks
        for far more time or memory than its size (see `rf_jax.scene.mesh_formats`).
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CHECKS:
        raise InputError(f"{path}: expected a mesh file ending in {', '.join(CHECKS)}")
    data = read_bytes(path, MAX_MESH_BYTES)
    with prefix_errors(str(path)):
        CHECKS[suffix](data)
        try:
            # From memory, so that no file is opened that the mesh names; materials are ignored
            mesh = trimesh.load_mesh(
                io.BytesIO(data), file_type=suffix[1:], process=False, skip_materials=True
            )
        except Exception as error:  # trimesh's parsers raise whatever they stumble on
            raise InputError(f"cannot read the mesh ({one_line(error, 150)})") from error
    return checked_mesh(mesh, path)


def save_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Writes vertices [K, 3] and faces [F, 3] as an OBJ file.

    Every coordinate is the shortest decimal number that reads back as the same float64.

    Raises:
      InputError: the file cannot be written.
    """
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in np.asarray(vertices, np.float64).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (np.asarray(faces) + 1).tolist()]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def as_mesh(source: trimesh.Trimesh | ArrayLike | tuple[ArrayLike, ArrayLike]) -> trimesh.Trimesh:
    """A mesh that is given in Python.

    Args:
      source: a trimesh, a pair of vertices [K, 3] and faces [F, 3], or triangles [F, 3, 3], which
        share no vertices.

    Raises:
      InputError: something else, or a mesh that `load_mesh` would refuse.
    """
    if isinstance(source, trimesh.Trimesh):
        return checked_mesh(_mesh(source.vertices, source.faces), "mesh")
    vertices, faces = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    try:
        vertices = np.asarray(vertices, np.float64)
        if faces is None and vertices.shape[1:] == (3, 3):
            vertices = vertices.reshape(-1, 3)
            faces = np.arange(len(vertices)).reshape(-1, 3)
        faces = np.asarray(faces)
    except (TypeError, ValueError):
        vertices = faces = np.zeros(0)
    if vertices.shape[1:] != (3,) or faces.shape[1:] != (3,) or faces.dtype.kind not in "iu":
        raise InputError(
            "mesh: expected a path, a trimesh.Trimesh, vertices [K, 3] with faces [F, 3], or "
            f"triangles [F, 3, 3], found {type(source).__name__}"
        )
    return checked_mesh(_mesh(vertices, faces), "mesh")


def checked_mesh(mesh: trimesh.Trimesh, path: str | Path) -> trimesh.Trimesh:
    """The mesh itself.

    Raises:
      InputError: it has no faces, a vertex that is not a finite float32, or a face whose vertex
        does not exist; the message begins with `path`.
    """
    if not len(mesh.faces):
        raise InputError(f"{path}: expected a triangle mesh, found no faces")
    if mesh.vertices.shape[1] != 3:
        raise InputError(f"{path}: expected vertices of 3 numbers each")
    bad = int((~(np.abs(mesh.vertices) <= FLOAT32_MAX).all(axis=1)).sum())
    if bad:
        raise InputError(f"{path}: expected vertices of finite float32, found {bad} others")
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        raise InputError(
            f"{path}: face indices out of range: expected 0 to {len(mesh.vertices) - 1}, "
            f"found {low if low < 0 else high}"
        )
    return mesh


def equilateral_triangle(edge: float) -> tuple[np.ndarray, np.ndarray]:
    """One triangle around the origin at z = 0, facing -z, with edges of this length.

    Returns:
      vertices [3, 3] and the face [1, 3].
    """
    angle = np.deg2rad([90, -30, -150])
    radius = edge / np.sqrt(3)
    vertices = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros(3)], axis=1)
    return vertices, np.array([[0, 1, 2]])


def facing_triangle(position: np.ndarray, target: np.ndarray, edge: float) -> np.ndarray:
    """The corners [3, 3] of an equilateral triangle around a position that faces a target.

    Raises:
      InputError: position and target are the same point.
    """
    up = np.eye(3)[np.argmin(np.abs(position - target))]
    pose = geometry.look_at(position, target, up)
    vertices, faces = equilateral_triangle(edge)
    return (vertices @ pose[:3, :3].T + position)[faces[0]]


def normalize_to_unit_sphere(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Moves the mean of the vertices to the origin and the farthest vertex to distance 0.5.

    Raises:
      InputError: all vertices are the same point.
    """
    centred = mesh.vertices - mesh.vertices.mean(axis=0)
    radius = np.linalg.norm(centred, axis=1).max()
    if not radius > 0:
        raise InputError("cannot normalize a mesh whose vertices are all the same point")
    return _mesh(centred / (2 * radius), mesh.faces)


def apply_transform(
    mesh: trimesh.Trimesh, rotation: np.ndarray, scale: np.ndarray, translation: np.ndarray
) -> trimesh.Trimesh:
    """Rotates a mesh, then scales it, then translates it.

    Args:
      mesh: the mesh.
      rotation: [3] angles in degrees about the x axis, then the y axis, then the z axis.
      scale: [3] factor along each axis. One that mirrors also reverses the faces, so that they
        still face outwards.
      translation: [3] offset.
    """
    vertices = mesh.vertices @ rotation_xyz(rotation).T * np.asarray(scale) + translation
    faces = mesh.faces[:, ::-1] if np.prod(scale) < 0 else mesh.faces
    return _mesh(vertices, faces)


def rotation_xyz(degrees: np.ndarray) -> np.ndarray:
    """The matrix [3, 3] that rotates by [3] degrees about the fixed axes x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        j, k = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[j, k], [j, k]] = math.cos(angle)
        step[k, j] = math.sin(angle)
        step[j, k] = -math.sin(angle)
        matrix = step @ matrix
    return matrix


def shade(mesh: trimesh.Trimesh, smooth: bool) -> trimesh.Trimesh:
    """Gives faces the vertices, and so the normals, of smooth or of flat shading."""
    return smooth_shade(mesh) if smooth else flat_shade(mesh)


def smooth_shade(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Separates faces that meet at a crease; other neighbours share vertices and normals."""
    return trimesh.graph.smooth_shade(mesh, angle=math.radians(CREASE_ANGLE_DEGREES))


def merge_vertices(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Faces that have vertices of their own at the same place share one."""
    merged = _mesh(mesh.vertices, mesh.faces)
    merged.merge_vertices()
    return merged


def flat_shade(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Gives every face vertices of its own."""
    return _mesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3))


def corner_normals(mesh: trimesh.Trimesh) -> np.ndarray:
    """Unit vertex normals [F, 3, 3] at the corners of the faces.

    Where the normals around a vertex cancel, each face has its own normal there. The normals of a
    face without area are NaN.
    """
    normals = mesh.vertex_normals[mesh.faces]
    own = np.broadcast_to(mesh.face_normals[:, None], normals.shape)
    normals = np.where(_is_unit(normals), normals, own)
    return np.where(_is_unit(normals), normals, np.nan)


def random_colors(mesh: trimesh.Trimesh, seed: int, maximum: float, kind: str) -> np.ndarray:
    """Random 8-bit colours [F, 3]; a seed gives the same colours as in the published scenes.

    Args:
      mesh: a shaded mesh.
      seed: seed of NumPy's legacy generator.
      maximum: upper limit of the colours, in [0, 1].
      kind: "per-triangle", or "per-shading-group" for one colour per connected piece.
    """
    edges = mesh.face_adjacency if kind == "per-shading-group" else np.empty((0, 2), int)
    pieces = trimesh.graph.connected_components(edges, nodes=np.arange(len(mesh.faces)))
    levels = max(1, math.ceil(256 * maximum))
    drawn = np.random.RandomState(seed).randint(0, levels, (len(pieces), 3))
    colors = np.empty((len(mesh.faces), 3), int)
    for piece, color in zip(pieces, drawn, strict=True):
        colors[piece] = color
    return colors


def remesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """Remeshes isotropically, with edges of 0.5 % of the diagonal, and decimates the result.

    Args:
      mesh: the mesh.
      num_faces: about how many faces the result has.

    Raises:
      InputError: pymeshlab is not installed, or leaves no faces.
    """
    with needs_extra("remesh", '"remesh": true'):
        import pymeshlab
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=mesh.vertices, face_matrix=mesh.faces))
    meshes.meshing_isotropic_explicit_remeshing(
        targetlen=pymeshlab.PercentageValue(0.5), featuredeg=30, adaptive=False
    )
    meshes.meshing_decimation_quadric_edge_collapse(targetfacenum=num_faces, qualitythr=1.0)
    result = meshes.current_mesh()
    if not result.face_number():
        raise InputError('remeshing left no faces; set "remesh": false')
    return _mesh(result.vertex_matrix(), result.face_matrix())


def _is_unit(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1, keepdims=True) > 0.5


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False)
