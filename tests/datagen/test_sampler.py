"""The distribution of each quantity over 2,000 scenes."""

import collections
import dataclasses

import numpy as np
import pytest
from known_scenes import CONFIGS
from scipy import stats

from rf_jax.config_files import load_config_file
from rf_jax.datagen.config import WALLS, DataConfig, Template
from rf_jax.datagen.sampler import (
    camera_shell_point,
    light_shell_point,
    sample_light_points,
    sample_scene,
    scene_rng,
)
from rf_jax.datagen.scenes import generate_scene, good_views, write_description
from rf_jax.scene import load_scene
from rf_jax.scene.mesh import rotation_xyz

COUNT = 2000
SMALLEST_P = 1e-4  # of each quantity; the seeds are fixed, so a test that passes keeps passing
NAMES = ("data_rooms.py", "data_tiny.py", "data_256.py", "data_512.py")

GOLDEN_POSITION = (-0.502458214, 1.488258044, 0.227972213)
GOLDEN_FOV = 46.81427856


@pytest.fixture(scope="module")
def config():
    return load_config_file(DataConfig, str(CONFIGS / "data_256.py"))


@pytest.fixture(scope="module")
def scenes(config):
    return [sample_scene(config.sampler, scene_rng(3, i, 0), "s") for i in range(COUNT)]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov test against U[low, high], and no value is outside."""
    values = np.asarray(values)
    assert low <= values.min() and values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > SMALLEST_P


def assert_share(hits, total, probability):
    assert stats.binomtest(int(hits), int(total), probability).pvalue > SMALLEST_P


def objects(scenes, prefix):
    return [
        (scene, value)
        for scene in scenes
        for name, value in scene.description.objects.items()
        if name.startswith(prefix)
    ]


def test_templates_have_their_weights(config, scenes):
    counts = collections.Counter(id(scene.template) for scene in scenes)
    weights = np.array([template.weight for template in config.sampler.templates])
    found = [counts[id(template)] for template in config.sampler.templates]
    assert stats.chisquare(found, COUNT * weights / weights.sum()).pvalue > SMALLEST_P


def test_objects_and_walls_are_those_of_the_template(scenes):
    for scene in scenes:
        names = list(scene.description.objects)
        kinds = [name.rsplit("_", 1)[0] for name in names]
        walls = [name.removeprefix("background_") for name in names if "background" in name]
        assert tuple(walls) == WALLS[scene.template.family]
        assert kinds == sorted(kinds, key=["background", "random_object", "light"].index)
        low, high = scene.template.num_objects
        assert low <= len(scene.shapes) <= high
    several = [len(s.shapes) for s in scenes if s.template.num_objects == (2, 3)]
    assert_share(sum(n == 2 for n in several), len(several), 0.5)


def test_object_transforms(scenes):
    found = objects(scenes, "random_object")
    positions = np.array([o.transform.translation for _, o in found])
    rotations = np.array([o.transform.rotation for _, o in found])
    for axis in range(3):
        assert_uniform(positions[:, axis], -0.5, 0.5)
        assert_uniform(rotations[:, axis], -180, 180)
    relative = []
    for scene, thing in found:
        low, high = np.array(scene.template.sphere_scale) / 2
        assert thing.transform.normalize and len(set(thing.transform.scale)) == 1
        relative.append((thing.transform.scale[0] - low) / (high - low))
    assert_uniform(relative, 0, 1)


@pytest.mark.parametrize("prefix", ["random_object", "background"])
def test_materials(scenes, prefix):
    found = objects(scenes, prefix)
    materials = [value.material for _, value in found]
    specular = np.array([m.specular for m in materials])
    assert (specular == specular[:, :1]).all()
    uniform = np.random.default_rng(0).uniform
    totals, ratios = uniform(0.9, 1, 200_000), uniform(0, 1, 200_000)
    expected = stats.ks_2samp(specular[:, 0], totals * ratios)
    assert expected.pvalue > SMALLEST_P
    blue = np.array([m.diffuse[2] for m in materials])
    expected = totals * (1 - ratios) * uniform(0, 1, 200_000)
    assert stats.ks_2samp(blue, expected).pvalue > SMALLEST_P
    largest = np.array([max(m.diffuse) for m in materials])
    assert (largest + specular[:, 0] <= 1).all()
    roughness = np.array([m.roughness for m in materials])
    assert roughness.min() >= 0.01 and roughness.max() <= 1
    inside = roughness[(roughness > 0.01) & (roughness < 1)]
    assert_uniform(np.log(inside + 0.05), np.log(0.06), np.log(1.05))
    assert_share(
        (roughness == 1).sum(), len(roughness), np.log(1.055 / 1.05) / np.log(1.055 / 0.06)
    )
    half = [value.material for scene, value in found if scene.template.smooth_ratio == 0.5]
    quarter = [value.material for scene, value in found if scene.template.smooth_ratio == 0.25]
    assert_share(sum(m.smooth_shading for m in half), len(half), 0.5)
    assert_share(sum(m.smooth_shading for m in quarter), len(quarter), 0.25)
    colored = [m for m in half if m.rand_tri_diffuse_seed is not None]
    assert_share(len(colored), len(half), 0.25)
    assert all(m.smooth_shading and m.random_diffuse_max == max(m.diffuse) for m in colored)
    assert_uniform([m.rand_tri_diffuse_seed for m in colored], 0, 10_000)
    kind = {"random_object": "per-shading-group", "background": "per-triangle"}[prefix]
    assert {m.random_diffuse_type for m in materials} == {kind}


def test_background_transforms(scenes):
    boxes, others = [], []
    for scene, piece in objects(scenes, "background"):
        axis = {"plane.obj": 2, "wall0.obj": 1}.get(piece.mesh_path, 0)
        if not scene.template.jitter:
            assert piece.transform.translation == piece.transform.rotation == (0, 0, 0)
            assert piece.transform.scale == (0.5, 0.5, 0.5)
            continue
        box = scene.template.family == "box"
        (boxes if box else others).append((scene.template.family, piece, axis))
    for pieces, tilt, low in ((boxes, 3, 1.0), (others, 10, 0.9)):
        rotations = np.array([p.transform.rotation for _, p, _ in pieces])
        axes = np.array([axis for *_, axis in pieces])
        rows = np.arange(len(axes))
        assert_uniform(rotations[rows, axes], -180, 180)
        assert_uniform(rotations[rows, (axes + 1) % 3], -tilt, tilt)
        assert_uniform(rotations[rows, (axes + 2) % 3], -tilt, tilt)
        assert_uniform(np.ravel([p.transform.scale for _, p, _ in pieces]), low / 2, 1.35 / 2)
    assert_uniform(np.ravel([p.transform.translation for _, p, _ in boxes]), -0.025, 0.025)
    moved = {
        ("corner", "plane.obj"): (2, 0.075, 0.125),
        ("wall", "plane.obj"): (2, 0.075, 0.125),
        ("plane", "plane.obj"): (2, 0.075, 0.125),
        ("corner", "wall0.obj"): (1, -0.125, 0.125),
        ("corner", "wall1.obj"): (0, -0.125, 0.125),
        ("wall", "wall1.obj"): (1, -0.125, 0.125),
    }
    for (family, mesh), (axis, low, high) in moved.items():
        chosen = [p for f, p, _ in others if (f, p.mesh_path) == (family, mesh)]
        offsets = np.array([p.transform.translation for p in chosen])
        assert_uniform(offsets[:, axis], low, high)
        assert_uniform(np.delete(offsets, axis, axis=1).ravel(), -0.025, 0.025)


def test_lights(scenes):
    counts = [sum(name.startswith("light") for name in s.description.objects) for s in scenes]
    assert stats.chisquare(np.bincount(counts, minlength=9)[1:]).pvalue > SMALLEST_P
    assert set(counts) == set(range(1, 9))
    radiances, scales, rotations = [], [], []
    for scene, light in objects(scenes, "light"):
        number = sum(name.startswith("light") for name in scene.description.objects)
        assert light.material.diffuse == (1, 1, 1) and light.material.specular == (0, 0, 0)
        assert len(set(light.material.emissive)) == 1 and light.material.roughness == 1
        radiances.append(light.material.emissive[0] * number)
        scales += light.transform.scale
        rotations += light.transform.rotation
        distance = np.linalg.norm(light.transform.translation)
        assert 2.1 - 0.2 * 3**0.5 <= distance <= 2.7 + 0.2 * 3**0.5
    assert_uniform(radiances, 2500, 5000)
    assert_uniform(scales, 2.0, 2.5)
    assert_uniform(rotations, -180, 180)


def test_light_shells():
    rng = np.random.default_rng(0)
    zones = {
        "plane": (0, -180, 180),
        "wall": (0, -180, 180),
        "box": (np.cos(np.radians(59)), -180, 180),
    }
    for family, (low, *_) in zones.items():
        points = np.array([light_shell_point(family, rng) for _ in range(COUNT)])
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.866)
        assert_uniform(points[:, 2] / 0.866, low, 1)
        assert_uniform(np.arctan2(points[:, 1], points[:, 0]), -np.pi, np.pi)
    points = np.array([light_shell_point("corner", rng) for _ in range(COUNT)])
    assert_uniform(np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360, 135, 315)
    for family in zones:
        points = sample_light_points(family, 8, rng)
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        assert distances[~np.eye(8, dtype=bool)].min() >= 0.3


def test_cameras(scenes):
    cameras = [camera for scene in scenes for camera in scene.description.cameras]
    assert len(cameras) == 4 * COUNT
    positions, targets, ups = (
        np.array([getattr(camera, name) for camera in cameras])
        for name in ("position", "look_at", "up")
    )
    assert_uniform([camera.fov for camera in cameras], 30, 60)
    assert_uniform(targets.ravel(), -0.2, 0.2)
    assert_uniform(np.linalg.norm(positions - targets, axis=1), 1.5, 2.0)
    np.testing.assert_allclose(np.linalg.norm(ups, axis=1), 1)
    assert np.abs(ups[:, :2] / ups[:, 2:]).max() <= 0.1 / 0.9
    expected = np.array([0, 0, 1]) + np.random.default_rng(1).uniform(-0.1, 0.1, (100_000, 3))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert stats.ks_2samp(ups[:, 0], expected[:, 0]).pvalue > SMALLEST_P


def test_camera_shells():
    rng = np.random.default_rng(0)
    azimuths = {"plane": (0, 360), "wall": (90, 270), "corner": (180, 270)}
    for family, limits in azimuths.items():
        points = np.array([camera_shell_point(family, rng) for _ in range(COUNT)])
        assert_uniform(points[:, 2] / 0.866, 0, 1)
        assert_uniform(np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360, *limits)
    points = np.array([camera_shell_point("box", rng) for _ in range(COUNT)])
    assert (points[:, 1] == -1.5).all()
    assert_uniform(points[:, [0, 2]].ravel(), -0.5, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_no_scene_is_over_its_budget(name):
    config = load_config_file(DataConfig, str(CONFIGS / name))
    for index in range(20):
        scene = generate_scene(config, index, 0, ()).scene
        assert len(scene.triangles) <= config.sampler.max_triangles


@pytest.mark.parametrize("name", NAMES)
def test_the_fullest_scenes_fit(name):
    """Every template is drawn with as many objects and lights as it may have."""
    config = load_config_file(DataConfig, str(CONFIGS / name))
    lights = (config.sampler.num_lights[1],) * 2
    for template in config.sampler.templates:
        full = dataclasses.replace(template, num_objects=(template.num_objects[1],) * 2)
        sampler = dataclasses.replace(config.sampler, templates=(full,), num_lights=lights)
        scene = generate_scene(dataclasses.replace(config, sampler=sampler), 0, 0, ()).scene
        assert len(scene.triangles) <= sampler.max_triangles


def test_scenes_depend_on_seed_index_and_attempt_only(config):
    first = generate_scene(config, 7, 0, ()).scene
    generate_scene(config, 3, 0, ())
    again = generate_scene(config, 7, 0, ()).scene
    for name in ("triangles", "texture", "camera_to_world"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    others = [(config, 8, 0), (config, 7, 1), (dataclasses.replace(config, seed=1), 7, 0)]
    for other in others:
        cameras = generate_scene(*other, ()).scene.camera_to_world
        assert not np.array_equal(cameras, first.camera_to_world)


def test_scene_zero_is_what_it_always_was(config):
    """Another stream of random numbers would change every dataset without notice."""
    camera = generate_scene(config, 0, 0, ()).sampled.description.cameras[0]
    np.testing.assert_allclose(camera.position, GOLDEN_POSITION, rtol=1e-6)
    np.testing.assert_allclose(camera.fov, GOLDEN_FOV, rtol=1e-6)


def test_json_is_the_same_scene(config, tmp_path):
    generated = generate_scene(config, 11, 0, ())
    write_description(generated, tmp_path)
    scene = load_scene(tmp_path / "scene.json")
    np.testing.assert_array_equal(scene.triangles, generated.scene.triangles)
    np.testing.assert_array_equal(scene.camera_to_world, generated.scene.camera_to_world)
    np.testing.assert_allclose(scene.vertex_normals, generated.scene.vertex_normals, atol=1e-6)
    np.testing.assert_allclose(scene.texture, generated.scene.texture, rtol=1e-3)


def test_collisions_are_avoided_where_there_is_room(config):
    template = Template("plane", 1.0, (4, 4), sphere_scale=(0.8, 0.8))
    crossings = {}
    for avoid in (False, True):
        sampler = dataclasses.replace(config.sampler, templates=(template,), avoid_collisions=avoid)
        crossings[avoid] = 0
        for index in range(50):
            scene = sample_scene(sampler, scene_rng(0, index, 0), "s")
            centres = np.array(
                [
                    o.transform.translation
                    for n, o in scene.description.objects.items()
                    if "obj" in n
                ]
            )
            distances = np.linalg.norm(centres[:, None] - centres, axis=-1)
            crossings[avoid] += int((distances[np.triu_indices(4, 1)] < 0.4).sum())
    assert crossings[True] == 0 < crossings[False]


def test_views_within_a_surface_are_not_good(config):
    scene = generate_scene(config, 0, 0, ()).scene
    cameras = scene.camera_to_world.copy()
    cameras[1, :3, 3] = scene.triangles[5].mean(axis=0) + 0.003
    assert good_views(scene.replace(camera_to_world=cameras)).tolist() == [True, False, True, True]


def test_standing_objects_touch_the_floor_between_the_walls():
    config = load_config_file(DataConfig, str(CONFIGS / "data_rooms.py"))
    for index in range(50):
        generated = generate_scene(config, index, 0, ())
        lamp = generated.scene.texture[:, 10:].any(axis=1)
        walls = 4 * 2 * generated.sampled.background_cells**2
        blocks = generated.scene.triangles[walls:][~lamp[walls:]].reshape(-1, 3)
        assert blocks[:, 2].min() == pytest.approx(-0.5, abs=1e-6)
        assert np.abs(blocks[:, :2]).max() <= 0.5 + 1e-6
        for _, placed in objects([generated.sampled], "random_object"):
            assert placed.transform.rotation[:2] == (0.0, 0.0)


def test_the_specular_part_can_be_bounded():
    config = load_config_file(
        DataConfig,
        str(CONFIGS / "data_rooms.py"),
        ["--config.sampler.specular_ratio=(0.0, 0.2)"],
    )
    scenes = [sample_scene(config.sampler, scene_rng(0, i, 0), "s") for i in range(200)]
    materials = [value.material for _, value in objects(scenes, "background")]
    assert 0.15 < max(m.specular[0] for m in materials) <= 0.2
    assert max(max(m.diffuse) for m in materials) > 0.8


def test_lights_can_be_made_to_face_their_targets():
    config = load_config_file(DataConfig, str(CONFIGS / "data_rooms.py"))
    for index in range(100):
        sampled = sample_scene(config.sampler, scene_rng(0, index, 0), "s")
        for _, light in objects([sampled], "light"):
            axis = rotation_xyz(np.array(light.transform.rotation))[:, 2]
            position = np.array(light.transform.translation)
            # Targets are within 0.18 of the origin, lights more than 2 away
            assert abs(axis @ position) / np.linalg.norm(position) > 0.8 - 0.1
