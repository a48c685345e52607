"""Ground truth against closed forms, for every renderer that runs here."""

import os

import numpy as np
import pytest
from known_scenes import CYCLES_PYTHON, UNBIASED, material, scene_of, square

from rf_jax import geometry
from rf_jax.datagen import furnace, primitives
from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.path_tracer import make_path_tracer
from rf_jax.datagen.scenes import generate_scene
from rf_jax.scene.h5 import projections
from rf_jax.structs import DIFFUSE, EMISSION, SPECULAR

CAMERA_FIELDS = ("camera_to_world", "fov_degrees")
LIGHT = np.array([[[0.3, -0.1, 0.8], [0.5, 0.1, 0.7], [0.2, 0.2, 0.95]]], np.float32)


def test_a_crash_fails_one_test(renderer_process):
    """Mitsuba aborts its process when LLVM goes wrong; renderings afterwards still work."""
    with pytest.raises(AssertionError, match="crashed"):
        renderer_process.run(os.abort)
    assert renderer_process.run(abs, -1) == 1


def test_furnace_returns_the_diffuse_albedo(make_tracer):
    tracer = make_tracer(resolution=8, spp=256, max_depth=3)
    cosines = np.array([1.0, 0.3])
    for albedo in (0.18, 0.9):
        found = furnace.furnace_albedo(tracer, albedo, 0.0, 1.0, cosines)
        np.testing.assert_allclose(found, albedo, rtol=0.01)


@pytest.mark.parametrize(("specular", "roughness"), [(0.9, 0.2), (0.5, 0.5), (1.0, 1.0)])
def test_furnace_returns_the_compensated_specular_albedo(make_tracer, specular, roughness):
    tracer = make_tracer(resolution=8, spp=1024, max_depth=3)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    cosines = (nodes + 1) / 2
    found = furnace.furnace_albedo(tracer, 0.0, specular, roughness, cosines)
    expected = furnace.expected_albedo(specular, roughness, cosines)
    mean_error = ((found - expected) * cosines * weights).sum()  # 2 cos / 2 of the quadrature
    assert abs(mean_error) < 0.01 * specular
    if make_tracer.name != "scalar_rgb":  # scalar_rgb has only one factor per material
        np.testing.assert_allclose(found, expected, atol=0.012)


def test_diffuse_and_specular_add_up(make_tracer):
    tracer = make_tracer(resolution=8, spp=512, max_depth=3)
    found = furnace.furnace_albedo(tracer, 0.4, 0.3, 0.1, np.array([0.8]))
    np.testing.assert_allclose(found, 0.7, rtol=0.01)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_triangle_light_over_a_plane_has_the_closed_form(make_tracer, order):
    """The light emits to both sides, so both windings of it give the same."""
    light = LIGHT[:, order]
    scene = scene_of(
        [(square(0.3), material(diffuse=0.6)), (light, material(emission=50.0))], [(0, 0, 2)], 12
    )
    tracer = make_tracer(resolution=16, spp=256, max_depth=2)
    image = tracer.render(scene, 0)[0, ..., 0]
    points = _points_on_ground(scene, 16)
    expected = 0.6 / np.pi * np.array([_irradiance(p, light[0], 50.0) for p in points])
    expected = expected.reshape(16, 16)
    assert abs(image.mean() / expected.mean() - 1) < 0.01
    np.testing.assert_allclose(image, expected, rtol=0.15)


def test_both_sides_of_a_light_that_stands_on_the_plane_emit(make_tracer):
    """With surfaces on both sides of a light, Mitsuba needs two emitters for it."""
    light = np.array([[[0, -0.1, 0.2], [0, 0.1, 0.2], [0, 0, 0.4]]], np.float32)
    scene = scene_of(
        [(square(0.3), material(diffuse=0.6)), (light, material(emission=50.0))], [(0, 0, 2)], 12
    )
    tracer = make_tracer(resolution=16, spp=512, max_depth=2)
    image = tracer.render(scene, 0)[0, ..., 0]
    points = _points_on_ground(scene, 16)
    expected = 0.6 / np.pi * np.array([_irradiance(p, light[0], 50.0) for p in points])
    expected = expected.reshape(16, 16)
    for half in (slice(0, 8), slice(8, 16)):
        assert abs(image[:, half].mean() / expected[:, half].mean() - 1) < 0.01


def test_the_camera_looks_through_lights_and_mirrors_show_them(make_tracer):
    """A light between the camera and a mirror, larger than the mirror."""
    light = square(0.2, height=1.0)
    mirror = scene_of(
        [(square(0.1), material(specular=0.9, roughness=0.05)), (light, material(emission=3.0))],
        [(0, 0, 2)],
        30,
    )
    image = make_tracer(resolution=32, spp=256, max_depth=3).render(mirror, 0)[0]
    seen = np.abs(np.arange(32) - 15.5) < 2
    np.testing.assert_allclose(image[seen][:, seen, :3], 0.9 * 3.0, rtol=0.05)
    np.testing.assert_allclose(image[seen][:, seen, 3], 1)
    assert not image[[0, 5, -1]].any()  # only the light is there: black and transparent


def test_surfaces_have_two_sides(make_tracer):
    tracer = make_tracer(resolution=8, spp=256, max_depth=3)
    scene = furnace.furnace_scene(material(diffuse=0.5), np.array([0.9, -0.9]))
    image = tracer.render(scene, 0)
    np.testing.assert_allclose(image[..., :3].mean(axis=(1, 2)), 0.5, rtol=0.01)


def test_stored_colours_are_rendered_colours(make_tracer):
    """Every triangle of a furnace's plate shows the diffuse colour that its row holds."""
    colors = np.array([[0.502, 0.1, 0.9], [0.05, 0.7, 0.3]])
    scene = furnace.furnace_scene(material(), np.array([1.0]))
    texture = scene.texture.copy()
    texture[:2, DIFFUSE] = colors
    scene = scene.replace(texture=texture, fov_degrees=np.float32([20]))
    image = make_tracer(resolution=16, spp=256, max_depth=3).render(scene, 0)[0]
    pixels = image[image[..., 3] > 0.999][:, :3]
    for color in colors:
        distance = np.abs(pixels / color - 1).max(axis=1)
        assert (distance < 0.04).mean() > 0.2


def test_half_the_emission_is_half_the_image(make_tracer):
    room = _room()
    dimmed = room.texture.copy()
    dimmed[:, EMISSION] /= 2
    tracer = make_tracer(resolution=16, spp=64, max_depth=5)
    image, half = tracer.render(room, 3), tracer.render(room.replace(texture=dimmed), 3)
    assert image[..., :3].mean() > 0.05
    np.testing.assert_allclose(2 * half[..., :3], image[..., :3], rtol=1e-3, atol=1e-5)


def test_noise_falls_with_the_square_root_of_the_samples(make_tracer):
    room = _room()
    views = {name: np.repeat(getattr(room, name), 16, axis=0) for name in CAMERA_FIELDS}
    spread = {}
    for spp in (16, 256):
        tracer = make_tracer(resolution=16, spp=spp, max_depth=3)
        variance = tracer.render(room.replace(**views), 0)[..., :3].var(axis=0)
        # The mean of the variances, without the extreme pixels that say little about the rest
        spread[spp] = np.sqrt(variance[variance < np.quantile(variance, 0.95)].mean())
    ratio = spread[16] / spread[256]
    assert ratio > 3.6
    if make_tracer.name != "cycles":  # the samples of Cycles are stratified: less noise
        assert ratio < 4.4


def test_vertices_appear_where_rays_point(make_tracer):
    """The image of a small triangle agrees with our rays and with the `mvp` matrices of files."""
    centre = np.array([0.21, -0.13, 0.17], np.float32)
    shape = 0.03 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    triangle = (centre + shape - shape.mean(axis=0))[None]
    parts = [(triangle, material(diffuse=0.5)), (LIGHT + 2, material(emission=1.0))]
    positions = [(1.0, 0.7, 1.4), (-1.3, 0.2, 1.0), (0.3, -1.6, 0.2), (-0.9, -0.9, -0.9)]
    scene = scene_of(parts, positions).replace(fov_degrees=np.float32([30, 60, 60, 30]))
    alpha = make_tracer(resolution=64, spp=64, max_depth=2).render(scene, 0)[..., 3]
    centre = triangle[0].mean(axis=0)
    for view in range(len(positions)):
        weighted = (np.indices((64, 64)) + 0.5) * alpha[view]
        y, x = weighted.sum(axis=(1, 2)) / alpha[view].sum()
        by_rays = _pixel_by_rays(scene, view, 64, centre)
        assert np.abs(np.array([x, y]) - by_rays).max() < 0.5
        np.testing.assert_allclose(_pixel_by_mvp(scene, view, 64, centre), by_rays, atol=1e-2)


@pytest.mark.parametrize("index", [2, 7])
def test_mitsuba_and_cycles_agree_on_diffuse_rooms(index, tiny_config):
    if not CYCLES_PYTHON:
        pytest.skip("RF_JAX_CYCLES_PYTHON names no Python with bpy")
    scene = generate_scene(tiny_config, index, 0, ()).scene
    texture = scene.texture.copy()
    texture[:, SPECULAR] = 0
    views = {name: getattr(scene, name)[:2] for name in CAMERA_FIELDS}
    scene = scene.replace(texture=texture, **views)
    config = RenderConfig(resolution=48, spp=512, max_depth=20, cycles=UNBIASED)
    first, second = (
        make_path_tracer(config, name, CYCLES_PYTHON, 2).render(scene, 0)[..., :3]
        for name in ("scalar_rgb", "cycles")
    )
    assert abs(first.mean() / second.mean() - 1) < 0.02
    assert np.abs(np.log10(1 + first) - np.log10(1 + second)).mean() < 0.01


def _room():
    """A box on a floor under a light."""
    vertices, faces = primitives.box(1)
    box = (0.4 * vertices + [0, 0, 0.21])[faces].astype(np.float32)
    light = np.array([[[-0.6, -0.4, 1.5], [-0.2, -0.4, 1.5], [-0.4, 0, 1.4]]], np.float32)
    parts = [
        (square(1.0), material(diffuse=(0.7, 0.5, 0.3))),
        (box, material(diffuse=0.5)),
        (light, material(emission=20.0)),
    ]
    return scene_of(parts, [(0.5, -1.2, 1.5)])


def _points_on_ground(scene, resolution):
    """The points [H * W, 3] where the rays through the pixels' centres meet z = 0."""
    rays = geometry.generate_rays(
        scene.camera_to_world[0, :3, :3], scene.fov_degrees[0], resolution
    )
    rays = np.asarray(rays, np.float64).reshape(-1, 3)
    origin = scene.camera_to_world[0, :3, 3].astype(np.float64)
    return origin - rays * (origin[2] / rays[:, 2:])


def _irradiance(point, triangle, radiance):
    """Lambert's formula for a polygon above a plane of normal +z."""
    corners = triangle.astype(np.float64) - point
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    total = 0.0
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        axis = np.cross(a, b)
        total += np.arccos(np.clip(a @ b, -1, 1)) * axis[2] / np.linalg.norm(axis)
    return abs(total) * radiance / 2


def _pixel_by_rays(scene, view, resolution, point):
    """(x, y) in pixels, from the directions of the rays of neighbouring pixels."""
    origin = scene.camera_to_world[view, :3, 3]
    rays = np.asarray(
        geometry.generate_rays(np.eye(3, dtype=np.float32), scene.fov_degrees[view], resolution)
    )
    local = (point - origin) @ scene.camera_to_world[view, :3, :3]
    slope = rays[..., :2] / -rays[..., 2:]
    centres = np.arange(resolution) + 0.5
    x = np.interp(local[0] / -local[2], slope[0, :, 0], centres)
    y = np.interp(-local[1] / -local[2], -slope[:, 0, 1], centres)
    return np.array([x, y])


def _pixel_by_mvp(scene, view, resolution, point):
    """(x, y) in pixels; the y axis of the matrix points down the image."""
    clip = projections(scene.camera_to_world, scene.fov_degrees)[view] @ np.append(point, 1)
    return (clip[:2] / clip[3] + 1) / 2 * resolution
