"""Lines over the image, and what a click on the image hits."""

import numpy as np
from numpy.typing import ArrayLike


def edges(triangles: np.ndarray) -> np.ndarray:
    """The edges of triangles, each once.

    Args:
      triangles: [N, 3, 3] positions; edges with the same ends in either order are one.

    Returns:
      [E, 2, 3] float32.
    """
    ends = np.asarray(triangles, np.float32)[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2, 3)
    first, second = ends[:, 0], ends[:, 1]
    differ = first != second
    axis = differ.argmax(axis=1)[:, None]
    swapped = np.take_along_axis(first, axis, 1) > np.take_along_axis(
        second, axis, 1
    )  # by the first coordinate in which the ends differ
    ends = np.where(swapped[..., None], ends[:, ::-1], ends)
    return np.unique(ends.reshape(-1, 6), axis=0).reshape(-1, 2, 3)


def first_hit(triangles: np.ndarray, origin: ArrayLike, direction: ArrayLike) -> int | None:
    """The triangle that a ray meets first, from either side; None if it meets none.

    The test is that of Möller and Trumbore ("Fast, minimum storage ray-triangle intersection",
    1997).

    Args:
      triangles: [N, 3, 3].
      origin, direction: [3]; the direction is of any length.
    """
    triangles = np.asarray(triangles, np.float64)
    origin, direction = np.asarray(origin, np.float64), np.asarray(direction, np.float64)
    corner, side_1, side_2 = (
        triangles[:, 0],
        triangles[:, 1] - triangles[:, 0],
        triangles[:, 2] - triangles[:, 0],
    )
    p = np.cross(direction, side_2)
    with np.errstate(divide="ignore", invalid="ignore"):  # triangles seen from their edge
        scale = 1 / np.sum(side_1 * p, axis=1)
        to_origin = origin - corner
        q = np.cross(to_origin, side_1)
        u = np.sum(to_origin * p, axis=1) * scale
        v = q @ direction * scale
        distance = np.sum(side_2 * q, axis=1) * scale
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0) & np.isfinite(distance)
    if not inside.any():
        return None
    return int(np.argmin(np.where(inside, distance, np.inf)))
