"""Cameras of the page as cameras of scenes, and paths of cameras.

The page (viser) gives poses with the camera axes of OpenCV: +x right, +y down, +z forward. Its
field of view is vertical, and so is that of the square image, which is as high as the canvas.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation, RotationSpline

from rf_jax import geometry
from rf_jax.scene.description import Camera
from rf_jax.scene.triangles import scene_camera

_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


def camera_to_world(wxyz: ArrayLike, position: ArrayLike) -> np.ndarray:
    """The pose of a camera of the page as scenes have it.

    Args:
      wxyz: [4] unit quaternion that turns the axes of OpenCV's camera into the world.
      position: [3].

    Returns:
      [4, 4], with the camera axes of OpenGL (+x right, +y up, -z forward).
    """
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(wxyz, scalar_first=True).as_matrix() @ _FROM_OPENCV
    pose[:3, 3] = position
    return pose


def camera_path(keys: Sequence[Camera], steps: int) -> list[Camera]:
    """Cameras along a smooth path through key cameras.

    Positions, distances of the point that is looked at, and fields of view follow cubic splines
    (straight lines between two keys), and orientations a rotation spline, so that velocities are
    continuous.

    Args:
      keys: at least one; each looks somewhere.
      steps: from one key to the next, >= 1.

    Returns:
      (len(keys) - 1) * steps + 1 cameras, the keys among them.
    """
    if len(keys) == 1:
        return list(keys)
    poses = np.stack([geometry.look_at(key.position, key.look_at, key.up) for key in keys])
    distances = [np.linalg.norm(np.subtract(key.look_at, key.position)) for key in keys]
    at_keys = np.arange(len(keys))
    times = np.linspace(0, len(keys) - 1, (len(keys) - 1) * steps + 1)
    values = np.column_stack([poses[:, :3, 3], np.log(distances), [key.fov for key in keys]])
    values = make_interp_spline(at_keys, values, k=min(3, len(keys) - 1))(times)
    rotations = RotationSpline(at_keys, Rotation.from_matrix(poses[:, :3, :3]))(times).as_matrix()
    cameras = []
    for rotation, value in zip(rotations, values, strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, value[:3]
        fov = np.clip(value[4], 1, 179)  # a spline may swing beyond its keys
        cameras.append(scene_camera(pose, np.exp(value[3]), fov))
    return cameras
