"""Small scenes made by hand, and the paths of the configurations and of Cycles."""

import os
from pathlib import Path

import numpy as np

from rf_jax import geometry
from rf_jax.datagen.config import CyclesConfig
from rf_jax.structs import (
    DIFFUSE,
    EMISSION,
    FLAT_NORMAL,
    NORMAL,
    NUM_CHANNELS,
    ROUGHNESS,
    SPECULAR,
    Scene,
)

CONFIGS = Path(__file__).parents[2] / "configs"
CYCLES_PYTHON = os.environ.get("RF_JAX_CYCLES_PYTHON")
UNBIASED = CyclesConfig(32, 32, 32, 0.0, 0.0, 0.0)


def material(diffuse=0.0, specular=0.0, roughness=1.0, emission=0.0):
    """The channels [13] of a material."""
    value = np.zeros(NUM_CHANNELS, np.float32)
    value[DIFFUSE], value[SPECULAR] = diffuse, specular
    value[ROUGHNESS], value[EMISSION] = roughness, emission
    value[NORMAL] = FLAT_NORMAL
    return value


def square(half, height=0.0):
    """A square of two triangles [2, 3, 3] that face +z."""
    a, b, c, d = ([x * half, y * half, height] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)))
    return np.array([[a, b, c], [a, c, d]], np.float32)


def scene_of(parts, cameras, fov=40.0):
    """A scene of parts, pairs of triangles [K, 3, 3] and a material [13] or [K, 13].

    The cameras stand at the given positions, look at the origin, and have +y upwards in the image.
    """
    triangles = np.concatenate([triangles for triangles, _ in parts])
    texture = [np.broadcast_to(value, (len(t), NUM_CHANNELS)) for t, value in parts]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cameras = [geometry.look_at(position, np.zeros(3), (0, 1, 0)) for position in cameras]
    return Scene(
        triangles=triangles.astype(np.float32),
        vertex_normals=np.repeat(normals[:, None], 3, axis=1).astype(np.float32),
        texture=np.concatenate(texture).astype(np.float32),
        valid_mask=None,
        camera_to_world=np.array(cameras, np.float32),
        fov_degrees=np.full(len(cameras), fov, np.float32),
    )
