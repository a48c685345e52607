"""Cameras, rays and the order of points in space.

Cameras look along -z with +y up and +x right (OpenGL, Blender).
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rf_jax.errors import InputError


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The pose of a camera at `position` that looks at `target`.

    Args:
      position, target: [3] world-space points.
      up: [3] direction that points up in the image; of any length.

    Returns:
      camera_to_world [4, 4], float64.

    Raises:
      InputError: position equals target, or up is zero or parallel to the viewing direction.
    """
    position, target, up = (np.asarray(v, np.float64) for v in (position, target, up))
    distance = np.linalg.norm(position - target)
    if not distance > 1e-12 * max(1.0, np.linalg.norm(position)):
        raise InputError(f"camera position and look_at are the same point {position.tolist()}")
    forward = (target - position) / distance
    if not np.linalg.norm(np.cross(up, forward)) > 1e-9 * np.linalg.norm(up):
        raise InputError(
            f"camera up {up.tolist()} is zero or parallel to the viewing direction "
            f"{forward.tolist()}; choose another up"
        )
    return camera_pose(position, target, up)


def camera_pose(position: ArrayLike, target: ArrayLike, up: ArrayLike) -> ArrayLike:
    """`look_at` for any number of cameras, without its checks, and differentiable.

    Args:
      position, target, up: [..., 3] NumPy or JAX arrays.

    Returns:
      camera_to_world [..., 4, 4], of the same kind and type.
    """
    xp = jnp if any(isinstance(v, jax.Array) for v in (position, target, up)) else np
    backward = position - target
    backward = backward / xp.linalg.norm(backward, axis=-1, keepdims=True)
    right = xp.cross(up, backward)
    right = right / xp.linalg.norm(right, axis=-1, keepdims=True)
    motion = xp.stack([right, xp.cross(backward, right), backward, position], axis=-1)
    last = xp.broadcast_to(xp.asarray([0, 0, 0, 1], motion.dtype), (*motion.shape[:-2], 1, 4))
    return xp.concatenate([motion, last], axis=-2)


def corner_normals(
    vertices: jax.Array, faces: np.ndarray, shading: np.ndarray, num_groups: int
) -> jax.Array:
    """Unit normals at the corners of faces, differentiable where faces have an area.

    Faces without area have gradient 0.

    The corners of a group share a normal: the mean of their faces' normals, weighted by the angles
    of the faces there (Thuermer and Wuethrich 1998), as in trimesh. Where the normals of a group
    cancel, each corner has that of its face. The normals of a face without area count as 0.

    Args:
      vertices: [K, 3].
      faces: [F, 3] indices of vertices.
      shading: [F, 3] the group of each corner.
      num_groups: how many groups there are.

    Returns:
      [F, 3, 3] (face, corner, xyz) in the type of the vertices.
    """
    corners = vertices[faces]
    edges = jnp.roll(corners, -1, axis=1) - corners
    normals = jnp.cross(edges[:, 0], edges[:, 1])
    double_area = _length(normals)
    own = normals / jnp.where(double_area > 0, double_area, 1)
    # The two edges at a corner span the same parallelogram at every corner.
    cosines = -(edges * jnp.roll(edges, 1, axis=1)).sum(-1)
    # The gradient of arctan2 at (0, 0) is not finite, and would be multiplied with 0.
    cosines = jnp.where(double_area > 0, cosines, 1)
    angles = jnp.arctan2(double_area, cosines)
    own = jnp.broadcast_to(own[:, None], corners.shape)
    sums = jax.ops.segment_sum(
        (angles[..., None] * own).reshape(-1, 3), shading.reshape(-1), num_groups
    )[shading]
    length = _length(sums)
    return jnp.where(length > CANCELLED, sums / jnp.where(length > CANCELLED, length, 1), own)


CANCELLED = 1e-5
"""Length of a sum of angle-weighted normals up to which they count as cancelled."""


def _length(vectors: jax.Array) -> jax.Array:
    """Lengths [..., 1] of vectors, with gradient 0 where they are 0."""
    squared = jnp.square(vectors).sum(-1, keepdims=True)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def world_to_camera_points(points: jax.Array, camera_to_world: jax.Array) -> jax.Array:
    """Points in the space of rigid cameras: R^T (x - t).

    Args:
      points: [..., 3] in world space.
      camera_to_world: [..., 4, 4]; its leading axes are broadcast against those of the points.

    Returns:
      [..., 3] in the type of the arguments; the product runs at full precision.
    """
    rotation, origin = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    return jnp.einsum(
        "...ij,...i->...j", rotation, points - origin, precision=jax.lax.Precision.HIGHEST
    )


LEAST_DEPTH, LEAST_INVERTED_DEPTH, LARGEST_PROJECTION = 0.05, 0.25, 4.0
"""Bounds that keep projected points beside and behind the camera finite."""


def project_points(points: jax.Array, fov_degrees: jax.Array) -> jax.Array:
    """Points in camera space where rays see them: (x / (d h), y / (d h), 1 / d) with d = -z.

    h is the tangent of half the field of view, so that the image spans [-1, 1] in the first two
    coordinates; these are clipped at `LARGEST_PROJECTION`.

    Args:
      points: [..., 3], the camera looking along -z.
      fov_degrees: full field of view, to be broadcast with [...].

    Returns:
      [..., 3] in float32 at least.
    """
    half = jnp.tan(jnp.deg2rad(_float32(fov_degrees)) / 2)[..., None]
    depth = -points[..., 2:]
    on_image = points[..., :2] / (jnp.maximum(depth, LEAST_DEPTH) * half)
    on_image = jnp.clip(on_image, -LARGEST_PROJECTION, LARGEST_PROJECTION)
    return jnp.concatenate([on_image, 1 / jnp.maximum(depth, LEAST_INVERTED_DEPTH)], axis=-1)


def generate_rays(rotation: jax.Array, fov_degrees: jax.Array, resolution: int) -> jax.Array:
    """Unit ray directions through the pixel centres of square images.

    Args:
      rotation: [..., 3, 3] camera-to-world rotation; the identity gives directions in camera space.
      fov_degrees: [...] full field of view.
      resolution: image side in pixels.

    Returns:
      [..., resolution, resolution, 3] in float32 at least; row 0 is the top of the image, column 0
      its left.
    """
    fov_degrees = _float32(fov_degrees)
    focal = (resolution / 2) / jnp.tan(jnp.deg2rad(fov_degrees) / 2)
    offset = jnp.arange(resolution, dtype=fov_degrees.dtype) + 0.5 - resolution / 2
    shape = (*fov_degrees.shape, resolution, resolution)
    offset = offset / focal[..., None]  # (..., resolution)
    x = jnp.broadcast_to(offset[..., None, :], shape)
    y = jnp.broadcast_to(-offset[..., :, None], shape)
    directions = jnp.stack([x, y, -jnp.ones_like(x)], axis=-1)
    directions = jnp.einsum(
        "...ij,...hwj->...hwi", rotation, directions, precision=jax.lax.Precision.HIGHEST
    )
    return directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)


def _float32(x: jax.Array) -> jax.Array:
    """In float32 at least: tests run the network in float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def crop_images(images: jax.Array, origin: jax.Array, side: int) -> jax.Array:
    """Cuts a square part out of each image.

    Args:
      images: [..., H, W, C].
      origin: [..., 2] int32, the first row and column of each part.
      side: rows and columns of a part.

    Returns:
      [..., side, side, C].
    """
    lead, channels = images.shape[:-3], images.shape[-1]
    crop = jax.vmap(
        lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), (side, side, channels))
    )
    parts = crop(images.reshape(-1, *images.shape[-3:]), origin.reshape(-1, 2))
    return parts.reshape(*lead, side, side, channels)


HILBERT_BITS = 16
"""The Hilbert curve visits 2^HILBERT_BITS cells along each axis."""


def hilbert_order(points: ArrayLike) -> ArrayLike:
    """The order of points along a Hilbert curve through their bounding box.

    Neighbours on the curve are near to each other in space. The transform is that of Skilling
    ("Programming the Hilbert curve", 2004), with x as its first axis. Points in the same cell keep
    their order.

    Args:
      points: [n, 3] NumPy or JAX array.

    Returns:
      indices [n] into the points, of the same kind.
    """
    xp = jnp if isinstance(points, jax.Array) else np
    points = xp.asarray(points, np.float32)
    low, extent = points.min(0), xp.ptp(points, axis=0)
    # An axis along which all points agree stays at 0.
    cells = (points - low) / xp.where(extent > 0, extent, 1) * (2**HILBERT_BITS - 1)
    x = list(cells.astype(np.int32).T)
    for bit in reversed(range(HILBERT_BITS)):
        low_bits = (1 << bit) - 1
        for axis in range(3):
            is_set = (x[axis] >> bit & 1).astype(bool)
            swapped = xp.where(is_set, 0, (x[0] ^ x[axis]) & low_bits)
            x[0] = x[0] ^ xp.where(is_set, low_bits, swapped)
            x[axis] = x[axis] ^ swapped
    parity = xp.zeros_like(x[0])
    codes = []  # the upper and the lower half of the code, which need 24 bits each
    for bits in np.arange(HILBERT_BITS)[::-1].reshape(2, -1).tolist():
        code = xp.zeros_like(parity)
        for bit in bits:
            for axis in range(3):  # the code is the running parity of the interleaved bits
                parity = parity ^ (x[axis] >> bit & 1)
                code = code << 1 | parity
        codes.append(code)
    return xp.lexsort(codes[::-1])


def environment_directions(height: int, width: int) -> np.ndarray:
    """The directions of the pixels of an equirectangular environment map, in a world with z up.

    The first row looks along +z. The middle column looks along +x, and columns to its left
    towards +y.

    Returns:
      [height, width, 3] unit vectors, float32.
    """
    polar = np.pi * (np.arange(height) + 0.5) / height
    azimuth = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width)
    polar, azimuth = np.meshgrid(polar, azimuth, indexing="ij")
    directions = np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)
    return np.stack(directions, axis=-1).astype(np.float32)
