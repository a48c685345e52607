"""The scenes that come along: in the world of configs/data_rooms.py, with ground truth."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.sampler import BOX_LIGHT_ANGLE_DEGREES
from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.scene import (
    bundled_scene,
    bundled_scene_names,
    find_scene_files,
    load_scene,
    load_scene_description,
    make_bundled,
    primitives,
)
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.structs import DIFFUSE, EMISSION, SPECULAR

NAMES = ["blue_room", "cornell_box", "turning_block"]
FILES = [path for name in NAMES for path in find_scene_files(name)]
ROOMS = load_config(str(Path(__file__).parents[2] / "configs" / "data_rooms.py"))

each_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)


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


@each_file
def test_lights_and_surfaces_are_like_the_training_data(path):
    scene, sampler = load_scene(path), ROOMS.sampler
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


@each_file
def test_blocks_are_like_the_training_data(path):
    scene, objects = load_scene(path), load_scene_description(path).objects
    counts = [len(make_bundled.MESHES[part.mesh_path][1]) for part in objects.values()]
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


@each_file
def test_cameras_are_like_the_training_data(path):
    sampler = ROOMS.sampler
    for camera in load_scene_description(path).cameras:
        to_camera = np.subtract(camera.position, camera.look_at)
        assert within(np.linalg.norm(to_camera), sampler.camera_distance)
        assert within(camera.look_at, (-sampler.target_jitter, sampler.target_jitter))
        assert np.abs(to_camera[[0, 2]]).max() <= -to_camera[1] / 3  # before the open side
        assert camera.up == (0, 0, 1) and within(camera.fov, sampler.fov)


@each_file
def test_every_view_has_ground_truth(path):
    views = range(len(load_scene_description(path).cameras))
    truth = load_ground_truth(path, views)
    assert truth.shape == (len(views), 64, 64, 3)
    assert within(np.clip(truth, 0, 1).mean(axis=(1, 2, 3)), (0.15, 0.35))


def test_files_are_small():
    sizes = [path.stat().st_size for path in make_bundled.ASSETS.rglob("*.*")]
    assert max(sizes) < 50_000 and sum(sizes) < 1_000_000


@pytest.mark.parametrize("name", ["cornell_box", "blue_room", "turning_block"])
def test_path_tracing_again_gives_the_ground_truth(name, tmp_path):
    pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")
    from rf_jax.datagen.trace import trace_files

    file = find_scene_files(name)[-1]
    config = RenderConfig(64, 64, 6, variant="scalar_rgb")
    made = block_means(load_exr(trace_files([file], config, tmp_path)[0]))
    committed = block_means(load_ground_truth(file, [0])[0])
    np.testing.assert_allclose(made.mean((0, 1)), committed.mean((0, 1)), rtol=0.02)
    assert np.abs(made - committed).mean() < 0.03 * committed.mean()


def block_means(image):
    """[8, 8, 3] means of 8x8 pixels, which have little noise."""
    return image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))


def test_the_animation_is_a_loop():
    assert len(find_scene_files("turning_block")) == make_bundled.FRAMES == 24
    corners = [load_scene(path).triangles for path in find_scene_files("turning_block")]
    steps = [np.linalg.norm(a - b) for a, b in zip(corners[1:], corners[:-1], strict=True)]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    # After the last step comes the first frame: the slab looks the same after half a turn
    step = np.deg2rad(180 / 24)
    turn = np.array([[np.cos(step), -np.sin(step)], [np.sin(step), np.cos(step)]])
    last, first = (np.unique(x[32:64].reshape(-1, 3), axis=0) for x in (corners[-1], corners[0]))
    middle = first.mean(axis=0)[:2]
    last[:, :2] = (last[:, :2] - middle) @ turn.T + middle
    distances = np.linalg.norm(last[:, None] - first, axis=-1).min(axis=1)
    assert distances.max() < 1e-5


def test_the_generator_makes_the_committed_files(tmp_path):
    make_bundled.main(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    kept = sorted(
        path.relative_to(make_bundled.ASSETS)
        for path in make_bundled.ASSETS.rglob("*.*")
        if path.suffix != ".exr"
    )
    assert made == kept
    for path in made:
        new, old = (tmp_path / path).read_text(), (make_bundled.ASSETS / path).read_text()
        if path.suffix == ".json":
            assert new == old
        else:  # the last digit may differ between machines
            new, old = (np.array([line.split()[1:] for line in x.splitlines()]) for x in (new, old))
            np.testing.assert_allclose(new.astype(float), old.astype(float), atol=2e-6)


@pytest.mark.parametrize(
    ("mesh", "faces", "volume"),
    [
        (primitives.box(3), 108, 1.0),
        (primitives.icosphere(2), 320, np.pi / 6),
        (primitives.torus_knot(2, 3, 0.07, 44, 13), 1144, 0.066),
        (make_bundled.MESHES["slab.obj"], 32, 0.95 * 0.35),
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
    light = trimesh.Trimesh(*primitives.equilateral_triangle(0.0707))
    np.testing.assert_allclose(light.area, 0.002165, rtol=1e-3)
    np.testing.assert_allclose(light.face_normals, [[0, 0, -1]])
