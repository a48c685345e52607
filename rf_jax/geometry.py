"""Cameras, rays and the order of points in space.

Cameras look along -z with +y up and +x right (OpenGL, Blender).
"""

import jax
import jax.numpy as jnp
import numpy as np

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
    backward = position - target
    distance = np.linalg.norm(backward)
    if not distance > 1e-12 * max(1.0, np.linalg.norm(position)):
        raise InputError(f"camera position and look_at are the same point {position.tolist()}")
    backward /= distance
    right = np.cross(up, backward)
    length = np.linalg.norm(right)
    if not length > 1e-9 * np.linalg.norm(up):
        raise InputError(
            f"camera up {up.tolist()} is zero or parallel to the viewing direction "
            f"{(-backward).tolist()}; choose another up"
        )
    right /= length
    camera_to_world = np.eye(4)
    camera_to_world[:3, :4] = np.stack([right, np.cross(backward, right), backward, position], 1)
    return camera_to_world


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
      [..., 3] in float32.
    """
    half = jnp.tan(jnp.deg2rad(fov_degrees.astype(jnp.float32)) / 2)[..., None]
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
      [..., resolution, resolution, 3] float32; row 0 is the top of the image, column 0 its left.
    """
    focal = (resolution / 2) / jnp.tan(jnp.deg2rad(fov_degrees.astype(jnp.float32)) / 2)
    offset = jnp.arange(resolution, dtype=jnp.float32) + 0.5 - resolution / 2
    shape = (*fov_degrees.shape, resolution, resolution)
    offset = offset / focal[..., None]  # (..., resolution)
    x = jnp.broadcast_to(offset[..., None, :], shape)
    y = jnp.broadcast_to(-offset[..., :, None], shape)
    directions = jnp.stack([x, y, -jnp.ones(shape, jnp.float32)], axis=-1)
    directions = jnp.einsum(
        "...ij,...hwj->...hwi", rotation, directions, precision=jax.lax.Precision.HIGHEST
    )
    return directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)


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


def hilbert_order(points: np.ndarray) -> np.ndarray:
    """The order of points along a Hilbert curve through their bounding box.

    Neighbours on the curve are near to each other in space. The transform is that of Skilling
    ("Programming the Hilbert curve", 2004), with x as its first axis. Points in the same cell keep
    their order.

    Args:
      points: [n, 3].

    Returns:
      indices [n] into the points.
    """
    points = np.asarray(points, np.float32)
    low, extent = points.min(0), np.ptp(points, axis=0)
    # An axis along which all points agree stays at 0.
    cells = (points - low) / np.where(extent > 0, extent, 1) * (2**HILBERT_BITS - 1)
    x = cells.astype(np.int64).T  # (3, n)
    for bit in reversed(range(HILBERT_BITS)):
        low_bits = (1 << bit) - 1
        for axis in range(3):
            is_set = (x[axis] >> bit & 1).astype(bool)
            swapped = np.where(is_set, 0, (x[0] ^ x[axis]) & low_bits)
            x[0] ^= np.where(is_set, low_bits, swapped)
            x[axis] ^= swapped
    code = np.zeros(x.shape[1], np.int64)
    parity = np.zeros_like(code)
    for bit in reversed(range(HILBERT_BITS)):
        for axis in range(3):  # the code is the running parity of the interleaved bits
            parity ^= x[axis] >> bit & 1
            code = code << 1 | parity
    return np.argsort(code, kind="stable")


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
