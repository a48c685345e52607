"""Warnings about scenes unlike those that the weights saw."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rf_jax.scene import find_scene_files, load_scene
from rf_jax.scene.check import measure, scene_warnings
from rf_jax.scene.random_scene import random_scene
from rf_jax.structs import DIFFUSE, EMISSION, SPECULAR, expand_texture
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_pretrained

DEFAULT = Path(__file__).parents[3] / "shared" / "upstream_scenes"
UPSTREAM = Path(os.environ.get("RF_JAX_UPSTREAM_SCENES", DEFAULT))

BEYOND = {
    "crystals": {"extent", "camera_distance"},
    "fox-in-the-wild": {"extent"},
    "horse-and-heart": {"camera_distance"},
    "renderformer-logo": {"camera_distance", "reflectance"},
    "tree": {"extent"},
}
"""What published scenes exceed besides the number of triangles."""


@pytest.fixture(scope="module")
def room():
    return load_scene("cornell_box")


@pytest.fixture(scope="module")
def bundled():
    return load_pretrained(BUNDLED_WEIGHTS).trained_on


@pytest.mark.parametrize("name", ["cornell_box", "blue_room", "turning_block"])
def test_bundled_scenes_are_what_the_weights_saw(name, bundled):
    for file in find_scene_files(name):
        scene = load_scene(file)
        assert not scene_warnings(scene, bundled) and not scene_warnings(scene, PUBLISHED)


@pytest.mark.parametrize("path", sorted(UPSTREAM.glob("*.json")) or [None], ids=str)
def test_published_scenes_exceed_only_what_is_known(path):
    if path is None:
        pytest.skip(f"published scenes not found in {UPSTREAM} (set RF_JAX_UPSTREAM_SCENES)")
    scene = load_scene(path)
    expected = BEYOND.get(path.stem, set())
    many = {"triangles"} if len(scene.triangles) > 4096 else set()
    assert scene_warnings(scene, PUBLISHED).keys() == expected | many


def with_texture(scene, channels, value, rows=slice(None)):
    texture = scene.texture.copy()
    texture[rows, channels] = value
    return scene.replace(texture=texture)


def moved_camera(scene, factor):
    cameras = scene.camera_to_world.copy()
    cameras[:, :3, 3] *= factor
    return scene.replace(camera_to_world=cameras)


def many(scene, times):
    fields = {n: getattr(scene, n) for n in ("triangles", "vertex_normals", "texture", "objects")}
    walls = {name: np.concatenate([array[:96]] * times) for name, array in fields.items()}
    return scene.replace(
        **{name: np.concatenate([walls[name], array[96:]]) for name, array in fields.items()}
    )


CASES = [
    (
        lambda s: with_texture(s.replace(triangles=s.triangles / 5), EMISSION, 0),
        {"lights": "no light: no triangle emits"},
    ),
    (
        lambda s: many(s, 313),
        {"triangles": "30,049 triangles: the weights saw at most 4,096"},
    ),
    (
        lambda s: s.replace(triangles=s.triangles * np.where(s.objects == 6, 1, 2)[:, None, None]),
        {"extent": "coordinates up to 1: the weights saw at most 0.5"},
    ),
    (
        lambda s: moved_camera(s, 2),
        {"camera_distance": "cameras at 4 from the origin: the weights saw 1.5 to 2"},
    ),
    (
        lambda s: s.replace(fov_degrees=np.float32([80])),
        {"fov": "a field of view of 80 degrees: the weights saw 30 to 60"},
    ),
    (
        lambda s: s.replace(triangles=s.triangles * np.where(s.objects == 6, 2, 1)[:, None, None]),
        {
            "light_distance": "lights at 5.19 from the origin: the weights saw 2.1 to 2.7",
            "light_scale": "lights with edges of 4.6 times 0.0707: the weights saw 2 to 2.5",
        },
    ),
    (
        lambda s: with_texture(s, EMISSION, 100, 96),
        {"emission": "emission that sums to 100: the weights saw 2,500 to 5,000"},
    ),
    (
        lambda s: with_texture(s, EMISSION, (3000, 3000, 1500), 96),
        {
            "white": "specular reflectance or emission whose colours differ by 0.5: "
            "the weights saw none"
        },
    ),
    (
        lambda s: with_texture(with_texture(s, SPECULAR, 0.75, 0), DIFFUSE, 0.5, 0),
        {"reflectance": "a diffuse + specular reflectance of 1.25: the weights saw at most 1"},
    ),
]


@pytest.mark.parametrize(("change", "expected"), CASES, ids=[next(iter(e)) for _, e in CASES])
def test_one_line_names_the_kind_and_the_range(room, change, expected):
    assert scene_warnings(change(room), PUBLISHED) == expected


def test_many_lights(room):
    found = scene_warnings(with_texture(room, EMISSION, 100, slice(8)), PUBLISHED)
    assert found["lights"] == "9 triangles that emit: the weights saw at most 8"


def test_rounding_is_no_departure_but_counts_are_exact(room):
    known = TrainedOn(64, triangles=96, camera_distance=(1.5, 1.97), fov=(38.5, 60.0))
    assert scene_warnings(room, known) == {"triangles": "97 triangles: the weights saw at most 96"}


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_a_scene_is_within_its_own_ranges(seed, size, patches):
    """And outside of those of a scene that is smaller in everything."""
    rng = np.random.default_rng(seed)
    scene = random_scene(size).replace(texture=rng.uniform(0, 1, (size, 13)).astype(np.float32))
    scene = scene.replace(texture=expand_texture(scene.texture, 4)) if patches else scene
    values = {name: found for name, found in measure(scene).items() if found.size}
    ends = {name: (float(found.min()), float(found.max())) for name, found in values.items()}
    own = {
        n: pair if isinstance(getattr(PUBLISHED, n), tuple) else pair[1] for n, pair in ends.items()
    }
    own |= {name: int(own[name]) for name in ("triangles", "lights")} | {"white": None}
    assert not scene_warnings(scene, TrainedOn(8, **own))
    smaller = {
        n: tuple(x / 2 for x in v) if isinstance(v, tuple) else v / 2 for n, v in own.items() if v
    }
    assert scene_warnings(scene, TrainedOn(8, **smaller)).keys() == smaller.keys()


def test_padding_is_not_looked_at(room):
    scene = room.replace(triangles=room.triangles.copy(), valid_mask=np.arange(97) > 3)
    scene.triangles[:4] = np.nan
    assert not scene_warnings(scene, PUBLISHED)


def test_patches_and_batches(room):
    assert not scene_warnings(room.replace(texture=expand_texture(room.texture, 4)), PUBLISHED)
    stack = (room, room.replace(fov_degrees=np.float32([80])))
    batch = jax.tree.map(lambda *arrays: np.stack(arrays), *stack)
    assert scene_warnings(batch, PUBLISHED).keys() == {"fov"}


def test_what_is_not_known_is_not_warned_of(room):
    assert not scene_warnings(moved_camera(room, 5), TrainedOn(64))


def test_the_bundled_network_knows_less(room, bundled):
    scene = many(with_texture(room, SPECULAR, 0.2, 0), 2)
    assert list(scene_warnings(scene, bundled).values()) == [
        "193 triangles: the weights saw at most 104",
        "a specular reflectance of 0.2: the weights saw none",
    ]
