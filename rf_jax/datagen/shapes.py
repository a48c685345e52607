"""Meshes of random scenes: backgrounds, built-in shapes, and files simplified to a budget."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from rf_jax.datagen import primitives
from rf_jax.datagen.config import MIN_OBJECT_FACES
from rf_jax.datagen.primitives import Mesh
from rf_jax.datagen.sampler import Shape
from rf_jax.errors import InputError, needs_extra
from rf_jax.files import read_bytes
from rf_jax.scene import mesh as meshes

FILE_SUFFIXES = (".obj", ".glb", ".ply")
MAX_LIST_BYTES = 256 * 2**20
"""Largest list of mesh files that is read."""

MIN_KNOT_FACES = 300
"""Fewest faces of a torus knot."""


def check_packages() -> None:
    """Raises an InputError that says how to install the packages for shapes, if one is missing."""
    for package in ("fast_simplification", "skimage.measure"):
        with needs_extra("datagen", "making scenes"):
            importlib.import_module(package)


def background_mesh(piece: str, cells: int) -> Mesh:
    """A background piece: a square of side 2 that is 1 away from the origin and faces it."""
    vertices, faces = primitives.plane_grid(cells)
    turns = {"plane": (0, 0, 0), "wall0": (90, 0, 0), "wall1": (0, -90, 0), "wall2": (0, 90, 0)}
    vertices = (2 * vertices - [0, 0, 1]) @ meshes.rotation_xyz(np.array(turns[piece])).T
    return np.round(vertices, 12) + 0.0, faces


def find_mesh_files(source: str | None) -> tuple[Path, ...]:
    """Finds mesh files.

    Args:
      source: a folder, which is searched with its subfolders; a text file with one path per line;
        or None for no files.

    Raises:
      InputError: there is no such folder or list, or it has no mesh.
    """
    if source is None:
        return ()
    path = Path(source)
    if os.path.isdir(path):
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in FILE_SUFFIXES)
    elif os.path.exists(path):
        try:
            lines = read_bytes(path, MAX_LIST_BYTES).decode().splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: expected a folder or a list of paths as text") from error
        files = [path.parent / line.strip() for line in lines if line.strip()]
    else:
        raise InputError(f"{path}: no such folder or list of mesh files")
    if not files:
        raise InputError(f"{path}: expected {', '.join(FILE_SUFFIXES)} files, found none")
    return tuple(files)


def make_mesh(shape: Shape, files: tuple[Path, ...]) -> Mesh:
    """Makes the mesh of an object, with at most `shape.max_faces` faces.

    Args:
      shape: what to make.
      files: mesh files to draw from. Boxes and special shapes are always built in, and so are all
        shapes if there are no files.

    Raises:
      InputError: the drawn file is unusable.
    """
    rng = np.random.default_rng(shape.seed)
    if shape.kind in SPECIAL:
        return _special_mesh(SPECIAL[shape.kind], shape.max_faces, rng)
    if files and shape.kind not in BUILT_IN:
        return load_simplified(files[rng.integers(len(files))], shape.max_faces)
    fewest = max(MIN_OBJECT_FACES, shape.max_faces / 4)
    num_faces = int(np.exp(rng.uniform(np.log(fewest), np.log(shape.max_faces))))
    names = [name for name in FAMILIES if name != "knot" or num_faces >= MIN_KNOT_FACES]
    families = BUILT_IN.get(shape.kind) or tuple(FAMILIES[name] for name in names)
    vertices, faces = families[rng.integers(len(families))](rng, num_faces)
    if shape.kind == "thin":
        vertices = vertices * _thinning(rng)
    return vertices, faces


def load_simplified(path: Path, max_faces: int) -> Mesh:
    """Reads a mesh file, merges its duplicate vertices, and simplifies it to `max_faces` faces.

    Raises:
      InputError: the file is missing, broken, empty, larger than 256 MiB, or cannot be simplified.
    """
    mesh = meshes.normalize_to_unit_sphere(meshes.load_mesh(path))
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())
    vertices, faces = simplified((mesh.vertices, mesh.faces), max_faces)
    if not 0 < len(faces) <= max_faces:
        raise InputError(
            f"{path}: cannot be simplified to {max_faces} faces, {len(faces)} are left"
        )
    return vertices, faces


def simplified(mesh: Mesh, max_faces: int) -> Mesh:
    """Collapses edges until about `max_faces` faces are left; a mesh that fits stays as it is."""
    vertices, faces = mesh
    if len(faces) <= max_faces:
        return np.asarray(vertices), np.asarray(faces)
    import fast_simplification

    return fast_simplification.simplify(
        np.asarray(vertices, np.float32), np.asarray(faces, np.int32), target_count=max_faces
    )


def _special_mesh(names: tuple[str, ...], max_faces: int, rng: np.random.Generator) -> Mesh:
    fitting = [mesh for name in names if len((mesh := SPECIAL_MESHES[name]())[1]) <= max_faces]
    return fitting[rng.integers(len(fitting))]


SPECIAL_MESHES: dict[str, Callable[[], Mesh]] = {
    "cube": lambda: primitives.box(1),
    "cube588": lambda: primitives.box(7),
    "cylinder": lambda: primitives.revolution(np.full(2, 0.25), 24),
    "ico_sub1": lambda: primitives.icosphere(1),
    "ico_sub2": lambda: primitives.icosphere(2),
    "plane": lambda: primitives.plane_grid(1),
    "plane512": lambda: primitives.plane_grid(16),
}
SPECIAL = {
    "special": tuple(SPECIAL_MESHES),
    "special_multi": ("cube", "ico_sub1", "ico_sub2", "plane"),
}


def _box(rng: np.random.Generator, num_faces: int) -> Mesh:
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * rng.uniform(0.15, 0.5, 2)
    return _extruded(corners, num_faces, twist=0.0, taper=1.0)


def _extrusion(rng: np.random.Generator, num_faces: int) -> Mesh:
    """A prism, truncated pyramid, star or gear, often twisted."""
    count = int(rng.integers(3, max(4, min(12, num_faces // 8) + 1)))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = np.where(np.arange(count) % 2 == 0, 0.5, rng.uniform(0.2, 0.5))
    radius = radius if count % 2 == 0 and count > 5 else np.full(count, 0.4)
    outline = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    twist = rng.choice([0.0, rng.uniform(-120, 120)])
    return _extruded(outline * rng.uniform(0.5, 1), num_faces, twist, rng.uniform(0.15, 1))


def _extruded(corners: np.ndarray, num_faces: int, twist: float, taper: float) -> Mesh:
    """An extrusion whose edges are cut so that it has nearly `num_faces` faces."""
    rings = max(2, int(np.sqrt(num_faces / 8)))
    cuts = max(1, num_faces // (2 * rings * len(corners)))
    rings = max(2, num_faces // (2 * cuts * len(corners)))
    part = np.arange(cuts)[:, None] / cuts
    outline = corners[:, None] * (1 - part) + np.roll(corners, -1, axis=0)[:, None] * part
    return primitives.extrusion(outline.reshape(-1, 2), rings - 1, twist, taper)


def _superquadric(rng: np.random.Generator, num_faces: int) -> Mesh:
    columns = max(3, int(np.sqrt(num_faces)))
    exponents = tuple(rng.uniform(0.3, 1.7, 2))
    vertices, faces = primitives.superquadric(exponents, num_faces // (2 * columns) + 1, columns)
    return vertices * rng.uniform(0.4, 1, 3), faces


def _sphere(rng: np.random.Generator, num_faces: int) -> Mesh:
    """A sphere of radius 0.5 with circles of latitude and longitude."""
    columns = max(3, int(np.sqrt(num_faces)))
    return primitives.superquadric((1.0, 1.0), num_faces // (2 * columns) + 1, columns)


def _torus(rng: np.random.Generator, num_faces: int) -> Mesh:
    sides = max(3, int(np.sqrt(num_faces / 6)))
    steps = num_faces // (2 * sides)
    return primitives.torus(rng.uniform(0.06, 0.22), steps, sides, rng.uniform(0.4, 1.5))


def _knot(rng: np.random.Generator, num_faces: int) -> Mesh:
    p, q = ((2, 3), (3, 2), (2, 5), (3, 4), (1, 4))[rng.integers(5)]
    sides = max(3, int(np.sqrt(num_faces / 24)))
    return primitives.torus_knot(p, q, rng.uniform(0.03, 0.07), num_faces // (2 * sides), sides)


def _revolution(rng: np.random.Generator, num_faces: int) -> Mesh:
    """A vase, bottle, bowl or bead, made of rings along a smooth random profile."""
    columns = max(3, int(np.sqrt(num_faces)))
    height = np.linspace(0, np.pi, max(2, num_faces // (2 * columns)))
    waves = rng.normal(size=3) / (1 + np.arange(3))
    profile = sum(wave * np.cos(k * height) for k, wave in enumerate(waves, start=1))
    return primitives.revolution(0.25 * np.exp(0.6 * profile), columns)


def _metaballs(rng: np.random.Generator, num_faces: int) -> Mesh:
    count = int(rng.integers(2, 7))
    centres = rng.normal(size=(count, 3)) * 0.35
    radii = rng.uniform(0.12, 0.3, count)
    cells = int(np.clip(np.sqrt(num_faces) * 0.9, 8, 40))
    return _closed_within(lambda n: primitives.metaballs(centres, radii, n), cells, num_faces)


def _displaced_sphere(rng: np.random.Generator, num_faces: int) -> Mesh:
    waves, phases = rng.normal(size=(5, 3)) * 2.5, rng.uniform(0, 2 * np.pi, 5)
    amplitude = rng.uniform(0.2, 0.6)
    size = int(np.ceil(np.log(num_faces / 20) / np.log(4)))
    return _closed_within(
        lambda n: primitives.displaced_sphere(waves, phases, amplitude, n), size, num_faces
    )


def _closed_within(make: Callable[[int], Mesh], size: int, num_faces: int) -> Mesh:
    """Simplifies `make(size)`, or, if that opens holes, takes a coarser mesh that fits."""
    mesh = simplified(make(size), num_faces)
    if len(mesh[1]) <= num_faces and trimesh.Trimesh(*mesh, process=False).is_watertight:
        return mesh
    while len((mesh := make(size))[1]) > num_faces:
        size -= 1
    return mesh


def _thinning(rng: np.random.Generator) -> np.ndarray:
    """A scale [3] that makes a plate (one thin axis) or a rod (two)."""
    scale = np.ones(3)
    axes = rng.permutation(3)[: rng.integers(1, 3)]
    scale[axes] = rng.uniform(0.03, 0.15)
    return scale


FAMILIES: dict[str, Callable[[np.random.Generator, int], Mesh]] = {
    "box": _box,
    "extrusion": _extrusion,
    "superquadric": _superquadric,
    "torus": _torus,
    "knot": _knot,
    "revolution": _revolution,
    "metaballs": _metaballs,
    "displaced_sphere": _displaced_sphere,
}
"""Closed shapes with at most the given number of faces, which is at least 32 (knots: 300)."""

BUILT_IN = {"boxes": (_box,), "boxes_and_spheres": (_box, _sphere)}
"""The closed shapes of those kinds that are always built in."""
