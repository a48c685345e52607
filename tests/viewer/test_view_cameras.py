"""Cameras of the page, and paths of cameras."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rf_jax import geometry
from rf_jax.scene.description import Camera
from rf_jax.scene.triangles import scene_camera
from rf_jax.viewer.cameras import camera_path, camera_to_world


def test_opencv_axes_become_those_of_scenes():
    """A camera at -y that looks along +y: right is +x, down is -z, forward +y."""
    opencv = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # columns: right, down, forward
    wxyz = Rotation.from_matrix(opencv).as_quat(scalar_first=True)
    pose = camera_to_world(wxyz, (0, -2, 0))
    np.testing.assert_allclose(pose, geometry.look_at((0, -2, 0), (0, 0, 0), (0, 0, 1)), atol=1e-12)


def test_a_pose_and_its_scene_camera_are_the_same():
    pose = geometry.look_at((1, -2, 0.5), (0.1, 0.2, 0.3), (0.2, 0, 1))
    camera = scene_camera(pose, 2.5, 40)
    back = geometry.look_at(camera.position, camera.look_at, camera.up)
    np.testing.assert_allclose(back, pose, atol=1e-12)
    assert np.linalg.norm(np.subtract(camera.look_at, camera.position)) == pytest.approx(2.5)


def keys(count):
    turn = np.linspace(0, 1.5, count)
    return [
        Camera((2 * np.sin(t), -2 * np.cos(t), 0.3 * t), (0, 0, 0), (0, 0, 1), 38 + t) for t in turn
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_paths_meet_their_keys(count):
    path = camera_path(keys(count), steps=6)
    assert len(path) == (count - 1) * 6 + 1
    for key, camera in zip(keys(count), path[::6], strict=True):
        np.testing.assert_allclose(camera.position, key.position, atol=1e-9)
        np.testing.assert_allclose(camera.look_at, key.look_at, atol=1e-6)
        assert camera.fov == pytest.approx(key.fov)


def test_paths_are_smooth():
    """No step is much longer than the one before, also at keys."""
    path = camera_path(keys(5), steps=10)
    steps = np.linalg.norm(np.diff([camera.position for camera in path], axis=0), axis=1)
    assert steps.min() > 0 and (steps[1:] / steps[:-1]).max() < 1.1
    distances = [np.linalg.norm(camera.position) for camera in path]
    assert min(distances) > 1.9  # around the scene, not through it


def test_a_turn_of_the_view_takes_the_short_way():
    pair = [Camera((0, -2, 0), target, (0, 0, 1), 40) for target in ((-1, 0, 0), (1, 0, 0))]
    middle = camera_path(pair, steps=2)[1]
    forward = np.subtract(middle.look_at, middle.position)
    np.testing.assert_allclose(forward / np.linalg.norm(forward), (0, 1, 0), atol=1e-9)
