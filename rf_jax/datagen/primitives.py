"""Simple meshes: vertices [K, 3] and faces [F, 3], counter-clockwise as seen from outside."""

import numpy as np
import trimesh

Mesh = tuple[np.ndarray, np.ndarray]


def plane_grid(cells: int) -> Mesh:
    """The square [-0.5, 0.5]^2 at z = 0, facing +z, of 2 * cells^2 triangles."""
    ticks = np.linspace(-0.5, 0.5, cells + 1)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    vertices = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    return vertices, _grid_faces(cells, cells, wrap=False)


def box(cells: int) -> Mesh:
    """The cube [-0.5, 0.5]^3 of 12 * cells^2 triangles.

    Each side is a grid that shares no vertices with the others.
    """
    vertices, faces = plane_grid(cells)
    top = vertices + np.array([0, 0, 0.5])
    sides = []
    for axis in range(3):
        side = np.roll(top, axis, axis=1)
        half_turn = np.ones(3)
        half_turn[[axis, axis - 1]] = -1
        sides += [side, side * half_turn]
    return np.concatenate(sides), np.concatenate([faces + i * len(top) for i in range(6)])


def icosphere(subdivisions: int) -> Mesh:
    """A sphere of radius 0.5, an icosahedron subdivided into 20 * 4^subdivisions triangles."""
    sphere = trimesh.creation.icosphere(subdivisions, radius=0.5)
    return np.asarray(sphere.vertices), np.asarray(sphere.faces)


def torus_knot(p: int, q: int, tube_radius: float, steps: int, sides: int) -> Mesh:
    """A tube along the (p, q) torus knot, within radius 0.5, of 2 * steps * sides triangles.

    Args:
      p, q: number of turns around the axis and through the hole, without a common factor.
      tube_radius: radius of the tube.
      steps, sides: number of vertices along the tube and around it.
    """
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    ring = 2 + np.cos(q * t)
    scale = (0.5 - tube_radius) / 3
    centre = scale * np.stack([ring * np.cos(p * t), ring * np.sin(p * t), np.sin(q * t)], axis=1)
    tangent = _unit(np.roll(centre, -1, axis=0) - np.roll(centre, 1, axis=0))
    # The frame follows the direction away from the torus' core circle, so that the tube closes
    core = 2 * scale * np.stack([np.cos(p * t), np.sin(p * t), np.zeros_like(t)], axis=1)
    outward = centre - core
    outward = _unit(outward - (outward * tangent).sum(1, keepdims=True) * tangent)
    binormal = np.cross(tangent, outward)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    tube = np.cos(angle) * outward[:, None] + np.sin(angle) * binormal[:, None]
    vertices = (centre[:, None] + tube_radius * tube).reshape(-1, 3)
    return vertices, _grid_faces(steps, sides, wrap=True)[:, ::-1]


def torus(minor_radius: float, steps: int, sides: int, exponent: float = 1.0) -> Mesh:
    """A ring around z, within radius 0.5, of 2 * steps * sides triangles.

    Args:
      minor_radius: radius of the tube.
      steps, sides: number of vertices around z and around the tube.
      exponent: exponent of the tube's section, a superellipse: 1 is round, near 0 it is square, 2
        is a diamond.
    """
    around = np.linspace(0, 2 * np.pi, steps, endpoint=False)[:, None]
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None]
    radius = 0.5 - minor_radius + minor_radius * _signed_power(np.cos(angle), exponent)
    height = minor_radius * _signed_power(np.sin(angle), exponent) + 0 * around
    vertices = np.stack([radius * np.cos(around), radius * np.sin(around), height], axis=-1)
    return vertices.reshape(-1, 3), _grid_faces(steps, sides, wrap=True)


def superquadric(exponents: tuple[float, float], rows: int, columns: int) -> Mesh:
    """A closed superellipsoid within [-0.5, 0.5]^3, of 2 * columns * (rows - 1) triangles.

    Args:
      exponents: exponents along the meridians and around z (Barr 1981): 1 is round, near 0 it is a
        box, 2 is an octahedron.
      rows, columns: number of bands of latitude and of longitude.
    """
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)[1:-1]
    longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    radius = 0.5 * _signed_power(np.cos(latitude), exponents[0])[:, None, None]
    ring = np.stack([np.cos(longitude), np.sin(longitude)], axis=-1)
    outline = radius * _signed_power(ring, exponents[1])  # (rows - 1, columns, 2)
    height = 0.5 * _signed_power(np.sin(latitude), exponents[0])
    return _stacked_rings(outline, height, (-0.5, 0.5))


def revolution(radii: np.ndarray, columns: int) -> Mesh:
    """A closed body of revolution around z with flat ends, of 2 * columns * K triangles.

    Args:
      radii: [K] radii of the rings, whose heights are evenly spaced in [-0.5, 0.5].
      columns: number of vertices of each ring.
    """
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    outline = np.asarray(radii)[:, None, None] * ring
    return _stacked_rings(outline, np.linspace(-0.5, 0.5, len(outline)), (-0.5, 0.5))


def extrusion(
    outline: np.ndarray, layers: int, twist_degrees: float = 0.0, taper: float = 1.0
) -> Mesh:
    """A closed prism over an outline, along z in [-0.5, 0.5], of 2 * K * (layers + 1) triangles.

    Args:
      outline: [K, 2] counter-clockwise polygon, star-shaped around the origin.
      layers: number of layers along z.
      twist_degrees: angle by which the top is turned against the bottom.
      taper: size of the top relative to the bottom.
    """
    part = np.linspace(0, 1, layers + 1)
    angle = np.deg2rad(twist_degrees) * part
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn * (1 + (taper - 1) * part)
    rings = np.einsum("ijl,kj->lki", turn, outline)
    return _stacked_rings(rings, part - 0.5, (-0.5, 0.5))


def metaballs(centres: np.ndarray, radii: np.ndarray, cells: int) -> Mesh:
    """The closed surface where the sum of (radius / distance)^2 is 1, by marching cubes.

    Args:
      centres, radii: [K, 3] centres and [K] radii of the balls.
      cells: number of cells of the grid along each axis.
    """
    from skimage.measure import marching_cubes

    # Beyond this distance from every centre the sum is below 1
    margin = 1.01 * np.sqrt((radii**2).sum())
    low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    axes = [np.linspace(low[i], high[i], cells + 1) for i in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    squared = ((points[..., None, :] - centres) ** 2).sum(axis=-1) + 1e-12
    field = np.log((radii**2 / squared).sum(axis=-1))
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=tuple((high - low) / cells))
    return vertices + low, faces[:, ::-1]


def displaced_sphere(waves: np.ndarray, phases: np.ndarray, amplitude: float, size: int) -> Mesh:
    """A sphere of about radius 0.5 with smooth bumps, of 20 * 4^size triangles.

    Args:
      waves, phases: [K, 3] wave vectors and [K] phases of the sines that make the bumps.
      amplitude: height of the bumps relative to the radius, below 1.
      size: number of subdivisions of the icosahedron.
    """
    vertices, faces = icosphere(size)
    bumps = np.sin(2 * vertices @ waves.T + phases).mean(axis=1, keepdims=True)
    return vertices * (1 + amplitude * bumps), faces


def _stacked_rings(rings: np.ndarray, heights: np.ndarray, ends: tuple[float, float]) -> Mesh:
    """Joins rings [L, K, 2] at heights [L], and closes both ends with fans to the axis."""
    layers, columns = rings.shape[:2]
    z = np.broadcast_to(heights[:, None, None], (layers, columns, 1))
    poles = np.array([[0, 0, ends[0]], [0, 0, ends[1]]])
    vertices = np.concatenate([np.concatenate([rings, z], axis=-1).reshape(-1, 3), poles])
    i, j = (index.reshape(-1) for index in np.indices((layers - 1, columns)))
    k = (j + 1) % columns
    a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + k, (i + 1) * columns + j
    j = np.arange(columns)
    k, top, bottom = (j + 1) % columns, (layers - 1) * columns, np.full(columns, layers * columns)
    faces = [(a, b, c), (a, c, d), (bottom, k, j), (bottom + 1, top + j, top + k)]
    return vertices, np.concatenate([np.stack(corners, axis=1) for corners in faces])


def _signed_power(x: np.ndarray, exponent: float) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** exponent


def _grid_faces(rows: int, columns: int, wrap: bool) -> np.ndarray:
    """Two triangles per cell of a row-major grid of vertices, whose ends are joined if `wrap`."""
    height, width = (rows, columns) if wrap else (rows + 1, columns + 1)
    i, j = (index.reshape(-1) for index in np.indices((rows, columns)))
    below, right = (i + 1) % height, (j + 1) % width
    a, b = i * width + j, below * width + j
    c, d = below * width + right, i * width + right
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
