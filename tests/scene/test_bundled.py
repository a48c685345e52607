"""The scenes of the package: like those of configs/data_rooms.py, with ground truth."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from rf_jax.config_files import load_config_file
from rf_jax.datagen import bundled, primitives
from rf_jax.datagen.config import DataConfig, RenderConfig
from rf_jax.datagen.path_tracer import make_path_tracer
from rf_jax.datagen.sampler import BOX_LIGHT_ANGLE_DEGREES
from rf_jax.errors import InputError
from rf_jax.scene import (
    bundled_scene,
    bundled_scene_names,
    find_scene_files,
    load_scene,
    load_scene_description,
)
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.scene.mesh import equilateral_triangle
from rf_jax.structs import DIFFUSE, EMISSION, SPECULAR

NAMES = ["blue_room", "cornell_box", "turning_block"]
ROOMS = load_config_file(DataConfig, str(Path(__file__).parents[2] / "configs" / "data_rooms.py"))


@pytest.fixture(scope="module")
def loaded():
    """Every file with its description and its scene."""
    files = [path for name in NAMES for path in find_scene_files(name)]
    return [(path, load_scene_description(path), load_scene(path)) for path in files]


def within(values, interval, margin=0.0):
    low, high = interval
    values = np.asarray(values)
    return np.all((values >= low - margin) & (values <= high + margin))


def test_names():
    assert bundled_scene_names() == NAMES
    with pytest.raises(InputError, match="no bundled scene named 'x'; there are blue_room, corn"):
        bundled_scene("x")
    assert bundled_scene("cornell_box").name == "scene.json"
    assert bundled_scene("turning_block").is_dir()


def test_lights_and_surfaces_are_like_the_training_data(loaded):
    for _, _, scene in loaded:
        check_lights_and_surfaces(scene, ROOMS.sampler)


def check_lights_and_surfaces(scene, sampler):
    assert len(scene.triangles) <= sampler.max_triangles
    emission = scene.texture[:, EMISSION]
    light = emission.any(axis=1)
    assert light.sum() == 1 and within(emission[light], sampler.light_radiance)
    assert np.abs(scene.triangles[~light]).max() <= 0.5 + 1e-6
    corners = scene.triangles[light]
    centre = corners.mean(axis=(0, 1))
    distance = np.linalg.norm(centre)
    assert within(distance, sampler.light_distance)
    assert centre[2] / distance > np.cos(np.deg2rad(BOX_LIGHT_ANGLE_DEGREES))
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    assert within(edges / 0.0707, sampler.light_scale, 1e-3)
    surfaces = scene.texture[~light]
    assert within(surfaces[:, SPECULAR], sampler.specular_ratio)
    assert (surfaces[:, DIFFUSE] + surfaces[:, SPECULAR]).max() <= 1


def test_blocks_are_like_the_training_data(loaded):
    for _, description, scene in loaded:
        check_blocks(scene, description.objects)


def check_blocks(scene, objects):
    counts = [len(bundled.MESHES[part.mesh_path][1]) for part in objects.values()]
    assert sum(counts) == len(scene.triangles)
    template = ROOMS.sampler.templates[0]
    ends = np.cumsum(counts)
    blocks = {
        name: scene.triangles[end - count : end].reshape(-1, 3)
        for (name, part), count, end in zip(objects.items(), counts, ends, strict=True)
        if part.mesh_path not in ("plane.obj", "light.obj")
    }
    assert within(len(blocks), template.num_objects)
    for name, corners in blocks.items():
        assert len(corners) <= 3 * template.max_faces
        np.testing.assert_allclose(corners[:, 2].min(), -0.5, atol=1e-6)  # it stands
        middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
        radius = np.linalg.norm(corners - middle, axis=1).max()
        assert within(4 * radius, template.sphere_scale), name
        assert not objects[name].material.smooth_shading


def test_cameras_are_like_the_training_data(loaded):
    sampler = ROOMS.sampler
    for camera in [camera for _, description, _ in loaded for camera in description.cameras]:
        to_camera = np.subtract(camera.position, camera.look_at)
        assert within(np.linalg.norm(to_camera), sampler.camera_distance)
        assert within(camera.look_at, (-sampler.target_jitter, sampler.target_jitter))
        assert np.abs(to_camera[[0, 2]]).max() <= -to_camera[1] / 3  # before the open side
        assert camera.up == (0, 0, 1) and within(camera.fov, sampler.fov)


def test_every_view_has_ground_truth(loaded):
    for path, description, _ in loaded:
        views = range(len(description.cameras))
        truth = load_ground_truth(path, views)
        assert truth.shape == (len(views), 64, 64, 3)
        assert within(np.clip(truth, 0, 1).mean(axis=(1, 2, 3)), (0.15, 0.35))


def test_files_are_small():
    sizes = [path.stat().st_size for path in bundled.ASSETS.rglob("*.*")]
    assert max(sizes) < 50_000 and sum(sizes) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_path_tracing_again_gives_the_ground_truth(name):
    pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")
    file = find_scene_files(name)[-1]
    tracer = make_path_tracer(RenderConfig(64, 64, 6), "scalar_rgb", None, 2)
    made = block_means(tracer.render(load_scene(file), 0)[0, ..., :3])
    committed = block_means(load_ground_truth(file, [0])[0])
    np.testing.assert_allclose(made.mean((0, 1)), committed.mean((0, 1)), rtol=0.02)
    assert np.abs(made - committed).mean() < 0.03 * committed.mean()


def block_means(image):
    """Means [8, 8, 3] of 8x8 pixels, which have little noise."""
    return image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))


def test_the_animation_is_a_loop(loaded):
    corners = [scene.triangles for path, _, scene in loaded if path.parent.name == "turning_block"]
    assert len(corners) == bundled.FRAMES == 24
    steps = [np.linalg.norm(a - b) for a, b in zip(corners[1:], corners[:-1], strict=True)]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    # The first frame follows the last, because the slab looks the same after half a turn
    step = np.deg2rad(180 / 24)
    turn = np.array([[np.cos(step), -np.sin(step)], [np.sin(step), np.cos(step)]])
    last, first = (np.unique(x[32:64].reshape(-1, 3), axis=0) for x in (corners[-1], corners[0]))
    middle = first.mean(axis=0)[:2]
    last[:, :2] = (last[:, :2] - middle) @ turn.T + middle
    distances = np.linalg.norm(last[:, None] - first, axis=-1).min(axis=1)
    assert distances.max() < 1e-5


def test_the_generator_makes_the_committed_files(tmp_path):
    bundled.write_scenes(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    kept = sorted(
        path.relative_to(bundled.ASSETS)
        for path in bundled.ASSETS.rglob("*.*")
        if path.suffix != ".exr"
    )
    assert made == kept
    for path in made:
        new, old = (tmp_path / path).read_text(), (bundled.ASSETS / path).read_text()
        if path.suffix == ".json":
            assert new == old
        else:  # sines may differ between machines in their last digit
            new, old = (np.array([line.split()[1:] for line in x.splitlines()]) for x in (new, old))
            np.testing.assert_allclose(new.astype(float), old.astype(float), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("mesh", "faces", "volume"),
    [
        (primitives.box(3), 108, 1.0),
        (primitives.icosphere(2), 320, np.pi / 6),
        (primitives.torus_knot(2, 3, 0.07, 44, 13), 1144, 0.066),
        (bundled.MESHES["slab.obj"], 32, 0.95 * 0.35),
    ],
)
def test_solids_are_closed_and_face_outwards(mesh, faces, volume):
    solid = trimesh.Trimesh(*mesh)
    assert solid.is_watertight and len(solid.faces) == faces
    assert np.abs(solid.vertices).max() <= 0.5 + 1e-9
    np.testing.assert_allclose(solid.volume, volume, rtol=0.05)


def test_a_fine_knot_is_smooth_everywhere():
    knot = trimesh.Trimesh(*primitives.torus_knot(2, 3, 0.07, 44, 13))
    assert np.rad2deg(knot.face_adjacency_angles.max()) < 30


def test_plane_and_triangle():
    plane = trimesh.Trimesh(*primitives.plane_grid(8))
    assert len(plane.faces) == 128
    np.testing.assert_allclose(plane.area, 1)
    np.testing.assert_allclose(plane.face_normals, np.tile([0, 0, 1], (128, 1)))
    light = trimesh.Trimesh(*equilateral_triangle(0.0707))
    np.testing.assert_allclose(light.area, 0.002165, rtol=1e-3)
    np.testing.assert_allclose(light.face_normals, [[0, 0, -1]])
