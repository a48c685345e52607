"""Names of free parameters, what they change, and what is written of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.rendering.free_parameters import (
    CAMERA_KINDS,
    OBJECT_KINDS,
    Free,
    apply_values,
    describe_values,
    parse_free,
    start_values,
    with_description_cameras,
    with_starts,
)
from rf_jax.scene import build_scene, bundled_scene, load_scene_description
from rf_jax.scene.parameters import scene_parameters

FILE = bundled_scene("cornell_box")
NAMES = [f"tall_box.{name}" for name in OBJECT_KINDS] + [f"cameras.{name}" for name in CAMERA_KINDS]


@pytest.fixture(scope="module")
def description():
    return load_scene_description(FILE)


def parameters_of(description):
    scene = build_scene(description, FILE.parent)
    return with_description_cameras(scene_parameters(scene), description)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_does_to_parameters_what_it_does_to_the_file(description, name):
    """Applying it, and reading the description that is written of it, give one scene."""
    free = parse_free(name, description)
    parameters = parameters_of(description)
    start = start_values(free, description, parameters)
    change = {"fov": 7.0, "emission": 40.0}.get(free[0].field, 0.2)
    values = {name: start[name] + change}
    if free[0].field == "roughness":
        values = {name: start[name] - change}
    applied = apply_values(parameters, free, start, values)
    written = parameters_of(describe_values(description, free, values))
    for part in ("vertices", "diffuse", "specular", "roughness", "emission"):
        found, expected = (getattr(p.objects["tall_box"], part) for p in (applied, written))
        # Diffuse colours are written in 8 bits
        np.testing.assert_allclose(found, expected, atol=2.1e-3 if part == "diffuse" else 1e-6)
    for part in ("position", "target", "up", "fov_degrees"):
        found, expected = (getattr(p.cameras, part) for p in (applied, written))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(AssertionError):  # and it is another scene than before
        for p, q in zip(*map(leaves, (applied, parameters)), strict=True):
            np.testing.assert_allclose(p, q, atol=1e-3)


def leaves(parameters):
    part, cameras = parameters.objects["tall_box"], parameters.cameras
    return (
        part.vertices, part.diffuse, part.specular, part.roughness, part.emission,
        cameras.position, cameras.target, cameras.fov_degrees,
    )  # fmt: skip


def test_coordinates_are_undone_and_bounded(description):
    for name in NAMES:
        (one,) = parse_free(name, description)
        value = jnp.asarray([0.25, 0.5, 1])
        value = value * 100 if one.field in ("fov", "emission") else value
        np.testing.assert_allclose(one.kind.decode(one.kind.encode(value)), value, rtol=1e-5)
        low, high = one.bounds(one.kind.encode(value), 0.5)
        assert (low < high).all()
    low, high = Free("light", "position").bounds(jnp.asarray([1.0, 2, 3]), 0.5)
    np.testing.assert_allclose([low, high], [[0.5, 1.5, 2.5], [1.5, 2.5, 3.5]])


def test_written_colours_read_back_as_the_nearest_of_8_bits(description):
    free = [Free("floor", "diffuse")]
    for level in range(256):
        value = {"floor.diffuse": np.array([level, level, level]) / 255 + 1e-3}
        colour = describe_values(description, free, value).objects["floor"].material.diffuse
        assert np.floor(255 * np.array(colour)).tolist() == [level] * 3


def test_random_colours_become_one(description):
    floor = description.objects["floor"]
    material = dataclasses.replace(
        floor.material, rand_tri_diffuse_seed=1, random_diffuse_type="per-triangle"
    )
    objects = description.objects | {"floor": dataclasses.replace(floor, material=material)}
    speckled = dataclasses.replace(description, objects=objects)
    free = [Free("floor", "diffuse")]
    parameters = parameters_of(speckled)
    assert parameters.objects["floor"].diffuse.shape == (8, 3)
    values = start_values(free, speckled, parameters)
    assert values["floor.diffuse"].shape == (3,)
    written = parameters_of(describe_values(speckled, free, values)).objects["floor"].diffuse
    np.testing.assert_allclose(written, values["floor.diffuse"], atol=2.1e-3)


def test_starts(description):
    text = "left_wall.diffuse=0.3, light.position=0 -1 2.2, floor.roughness=0.5, cameras.fov=30"
    free = parse_free(text, description)
    assert [one.name for one in free] == [
        "left_wall.diffuse", "light.position", "floor.roughness", "cameras.fov"
    ]  # fmt: skip
    changed = with_starts(description, free)
    np.testing.assert_allclose(changed.objects["left_wall"].material.diffuse, 0.3, atol=2.1e-3)
    assert changed.objects["light"].transform.translation == (0, -1, 2.2)
    assert changed.objects["floor"].material.roughness == 0.5
    assert changed.cameras[0].fov == 30
    assert changed.objects["right_wall"] == description.objects["right_wall"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected names such as"),
        ("diffuse", "expected OBJECT.PARAMETER, such as light.emission, found diffuse"),
        ("flor.diffuse", "no object named 'flor' in this scene; there are floor, .*cameras"),
        ("floor.emissive", "floor.emissive: unknown key; did you mean 'emission'"),
        ("cameras.up", "cameras.up: unknown key; expected position, target, fov"),
        ("floor.diffuse,floor.diffuse=1", "floor.diffuse is named twice"),
        ("floor.diffuse=red", "floor.diffuse: expected a number or three .* found 'red'"),
        ("floor.diffuse=1 2", "floor.diffuse: expected a number or three .* found '1 2'"),
        ("floor.roughness=1 2 3", "floor.roughness: expected a number after =, found '1 2 3'"),
        ("floor.roughness=2", "objects.floor.material.roughness: expected .* 2"),
        ("floor.specular=nan", "objects.floor.material.specular"),
    ],
)
def test_bad_names(description, text, message):
    with pytest.raises(InputError, match=f"--free: .*{message}"):
        with_starts(description, parse_free(text, description))
