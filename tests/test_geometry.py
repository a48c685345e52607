"""Cameras and rays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax.geometry import (
    generate_rays,
    hilbert_order,
    look_at,
    world_to_camera_points,
)

EYE = jnp.eye(3)


def project(points, camera_to_world, fov_degrees, resolution):
    """Pixel coordinates (column, row) of world points by the pinhole formula, in float64."""
    camera = (points - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
    focal = resolution / 2 / np.tan(np.radians(fov_degrees) / 2)
    return resolution / 2 + focal * camera[:, :2] * [1, -1] / -camera[:, 2:]


def test_rays_of_the_identity_camera():
    rays = np.asarray(generate_rays(EYE, jnp.asarray(90.0), 4))
    assert rays.shape == (4, 4, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
    # Row 0 looks up, column 0 looks left; a 90 degree image plane spans [-1, 1].
    np.testing.assert_allclose(rays[0, 0] / -rays[0, 0, 2], [-0.75, 0.75, -1], atol=1e-6)
    np.testing.assert_allclose(rays[3, 2] / -rays[3, 2, 2], [0.25, -0.75, -1], atol=1e-6)


coordinates = st.tuples(*[st.floats(-2, 2)] * 3)


@given(
    position=coordinates, fov=st.floats(10, 120), row=st.integers(0, 15), column=st.integers(0, 15)
)
@settings(max_examples=30)
def test_points_along_a_ray_project_to_its_pixel(position, fov, row, column):
    position = np.array(position)
    camera = look_at(position, position + np.array([0.3, -0.2, 0.9]), np.array([0.0, 1.0, 0.2]))
    rays = generate_rays(jnp.asarray(camera[:3, :3]), jnp.asarray(fov), 16)
    point = position + 3.0 * np.asarray(rays[row, column], np.float64)
    pixel = project(point[None], camera, fov, 16)[0]
    np.testing.assert_allclose(pixel, [column + 0.5, row + 0.5], atol=1e-2)


def test_camera_space_keeps_distances_and_puts_the_camera_at_the_origin():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10, 3))
    camera = look_at(np.array([1.0, 2, 3]), np.zeros(3), np.array([0.0, 0, 1]))
    seen = np.asarray(world_to_camera_points(jnp.asarray(points), jnp.asarray(camera)[None]))
    np.testing.assert_allclose(
        np.linalg.norm(seen, axis=-1), np.linalg.norm(points - camera[:3, 3], axis=-1), rtol=1e-5
    )
    ahead = world_to_camera_points(jnp.zeros((1, 3)), jnp.asarray(camera)[None])
    np.testing.assert_allclose(ahead, [[0, 0, -np.sqrt(14)]], atol=1e-5)


def test_hilbert_neighbours_are_near():
    """On a full grid every step of the curve goes to an adjacent cell."""
    side = 8
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = (grid + 0.5) / side
    points = np.concatenate([points, np.zeros((1, 3)), np.ones((1, 3))])  # the range of the curve
    order = hilbert_order(points)
    assert sorted(order) == list(range(side**3 + 2))
    walk = grid[order[order < side**3]]
    np.testing.assert_array_equal(np.abs(np.diff(walk, axis=0)).sum(1), 1)


def test_hilbert_order_of_points_in_one_cell_is_theirs():
    assert hilbert_order(np.ones((5, 3))).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("case", ["box", "flat", "two", "one"])
def test_the_hilbert_order_of_renderformer_v2(case):
    golden = np.load(Path(__file__).parent / "data" / "goldens_v2" / "data" / "hilbert.npz")
    order = hilbert_order(golden[f"{case}_points"])
    np.testing.assert_array_equal(order, golden[f"{case}_order"])


def test_the_hilbert_order_of_traced_points_is_the_same():
    # Corners of cells that floating-point numbers hold exactly, some of them twice
    points = np.random.default_rng(0).integers(0, 2**16, (500, 3))
    points = np.concatenate([[[0, 0, 0], [2**16 - 1] * 3], points, points[:50]]).astype(np.float32)
    order = jax.jit(hilbert_order)(points)
    assert isinstance(order, jax.Array)
    np.testing.assert_array_equal(order, hilbert_order(points))
