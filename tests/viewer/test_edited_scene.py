"""The scene being edited: what an edit changes, and what a saved scene renders."""

import dataclasses

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import bundled_scene, load_scene, save_h5
from rf_jax.scene.description import Transform, load_scene_description, save_scene_description
from rf_jax.scene.mesh import rotation_xyz
from rf_jax.viewer.saving import save_edited
from rf_jax.viewer.state import (
    degrees_of,
    join_color,
    open_scene,
    pivot_of,
    position_of,
    quaternion,
    split_color,
    with_pose,
)

numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
vectors = st.tuples(numbers, numbers, numbers)
factors = st.tuples(*[st.sampled_from((-1.5, -0.3, 0.2, 1.0, 1.7))] * 3)
angles = st.tuples(*[st.floats(-180, 180).map(round)] * 3)
transforms = st.builds(Transform, translation=vectors, rotation=angles, scale=factors)


@pytest.fixture(scope="module")
def renderer(config, variables):
    return Renderer(variables, config)


@pytest.fixture(scope="module")
def edited(renderer):
    return open_scene("cornell_box", renderer)


def assert_same_scene(a, b):
    for field in ("triangles", "vertex_normals", "texture", "camera_to_world", "objects"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=1e-6)


def changed(edited, name, **fields):
    """The objects of a scene, of which one has other fields."""
    return {**edited.objects, name: dataclasses.replace(edited.objects[name], **fields)}


@pytest.mark.parametrize("name", ["cornell_box", "blue_room"])
def test_an_opened_scene_is_the_loaded_one(renderer, name):
    edited = open_scene(name, renderer)
    assert_same_scene(edited.scene, load_scene(name))
    assert edited.scene.object_names == tuple(edited.objects)


def test_only_what_differs_is_placed_anew(edited):
    old = edited.objects["tall_box"]
    material = dataclasses.replace(old.material, roughness=0.3)
    new = edited.with_objects(changed(edited, "tall_box", material=material))
    assert edited.with_objects(dict(edited.objects)) is edited
    placed = [name for name in edited.parts if new.parts[name] is not edited.parts[name]]
    assert placed == ["tall_box"]
    mine = np.asarray(new.scene.objects) == new.scene.object_names.index("tall_box")
    differs = (new.scene.texture != edited.scene.texture).any(axis=1)
    assert np.array_equal(mine, differs) and edited.objects["tall_box"] is old


def test_what_cannot_be_placed_is_refused_and_named(edited):
    old = edited.objects["tall_box"]
    flat = dataclasses.replace(old.transform, scale=(0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"objects\.tall_box.*degenerate"):
        edited.with_objects(
            {**edited.objects, "tall_box": dataclasses.replace(old, transform=flat)}
        )


def test_a_saved_scene_is_read_back_as_it_was_edited(edited, tmp_path):
    old = edited.objects["short_box"]
    moved = with_pose(old.transform, pivot_of(edited.meshes["short_box"]), position=(0.1, 0, -0.3))
    new = edited.with_objects(changed(edited, "short_box", transform=moved))
    path = tmp_path / "elsewhere" / "saved.json"
    cameras = edited.cameras * 2
    save_scene_description(new.described(path.parent, cameras), path)
    assert_same_scene(load_scene(path), new.scene.replace(
        camera_to_world=np.repeat(new.scene.camera_to_world, 2, axis=0)
    ))  # fmt: skip
    assert load_scene_description(path).cameras == cameras


def test_remeshing_and_normalising_are_done_once(renderer, tmp_path, monkeypatch):
    from rf_jax.viewer import state

    description = load_scene_description(bundled_scene("cornell_box"))
    objects = {
        name: dataclasses.replace(
            each,
            mesh_path=str(bundled_scene("cornell_box").parent / each.mesh_path),
            transform=dataclasses.replace(each.transform, normalize=True),
            remesh=True,
        )
        for name, each in description.objects.items()
    }
    path = tmp_path / "scene.json"
    save_scene_description(dataclasses.replace(description, objects=objects), path)
    calls = []
    monkeypatch.setattr(state, "remesh", lambda mesh, faces: calls.append(faces) or mesh)
    edited = open_scene(path, renderer)
    assert len(calls) == len(objects)
    assert np.allclose(edited.meshes["tall_box"].vertices.mean(axis=0), 0)
    moved = with_pose(edited.objects["floor"].transform, np.zeros(3), position=(1, 2, 3))
    edited.with_objects(changed(edited, "floor", transform=moved))
    assert len(calls) == len(objects)


def test_files_without_objects_can_be_looked_at(renderer, tmp_path):
    save_h5(load_scene("cornell_box"), tmp_path / "scene.h5")
    edited = open_scene(tmp_path / "scene.h5", renderer)
    assert not edited.objects
    assert edited.with_objects({}) is edited and edited.scene.triangles.shape == (97, 3, 3)


@pytest.fixture
def fitted(renderer):
    """A scene that is edited triangle by triangle, as those of glTF files."""
    edited = open_scene("cornell_box", renderer, fit=True)
    assert edited.read is not None and edited.objects.keys() == edited.parts.keys()
    return edited


def edit(edited, name, **pose):
    transform = with_pose(edited.objects[name].transform, pivot_of(edited.meshes[name]), **pose)
    return edited.with_objects(changed(edited, name, transform=transform))


def test_read_triangles_are_moved_and_turned(fitted):
    part, pivot = fitted.parts["tall_box"], pivot_of(fitted.meshes["tall_box"])
    offset = np.array([0.1, 0, 0.2])
    moved = edit(fitted, "tall_box", position=pivot + offset).parts["tall_box"]
    np.testing.assert_allclose(moved.triangles, part.triangles + offset, atol=1e-9)
    np.testing.assert_allclose(moved.normals, part.normals, atol=1e-9)
    turned = edit(fitted, "tall_box", rotation=(0, 0, 90)).parts["tall_box"]
    x, y, z = np.moveaxis(part.triangles - pivot, -1, 0)
    np.testing.assert_allclose(turned.triangles, np.stack([-y, x, z], -1) + pivot, atol=1e-9)
    x, y, z = np.moveaxis(part.normals, -1, 0)
    np.testing.assert_allclose(turned.normals, np.stack([-y, x, z], -1), atol=1e-9)
    back = edit(edit(fitted, "tall_box", rotation=(0, 0, 90)), "tall_box", rotation=(0, 0, 0))
    assert_same_scene(back.scene, fitted.scene)


@pytest.mark.parametrize("scale", [(1, 2, 0.5), (-1, 1, 1), (-1, 2, -3)])
def test_scaled_read_triangles_keep_their_normals_upright(fitted, scale):
    part = edit(fitted, "tall_box", scale=scale, rotation=(10, 20, 30)).parts["tall_box"]
    first, second = part.triangles[:, 1] - part.triangles[:, 0], part.triangles[:, 2]
    geometric = np.cross(first, second - part.triangles[:, 0])
    geometric /= np.linalg.norm(geometric, axis=1, keepdims=True)
    np.testing.assert_allclose(np.sum(geometric[:, None] * part.normals, axis=-1), 1, atol=1e-5)
    with pytest.raises(InputError, match="no factor of 0"):
        edit(fitted, "tall_box", scale=(1, 0, 1))


def test_only_what_was_set_changes_in_read_materials(fitted):
    parts = dict(fitted.parts)
    colours = np.linspace(0, 1, 3 * len(parts["floor"].texture)).reshape(-1, 3)
    parts["floor"].texture[:, :3] = colours
    material = dataclasses.replace(fitted.objects["floor"].material, roughness=0.25)
    new = fitted.with_objects(changed(fitted, "floor", material=material)).parts["floor"]
    assert np.array_equal(new.texture[:, :3], colours) and (new.texture[:, 6] == 0.25).all()
    assert (parts["floor"].texture[:, 6] != 0.25).all()


def test_objects_of_gltf_files_can_be_edited(renderer, tmp_path):
    boxes = trimesh.Scene()
    for name, place in (("left", -1), ("right", 1)):
        box = trimesh.creation.box((0.3, 0.3, 0.3))
        boxes.add_geometry(box.apply_translation((place, 0, 0)), node_name=name)
    boxes.export(tmp_path / "boxes.glb")
    edited = open_scene(tmp_path / "boxes.glb", renderer)
    assert {"left", "right"} <= edited.objects.keys() and edited.cameras
    new = edit(edited, "left", position=(0, 0, 1))
    np.testing.assert_allclose(new.parts["left"].triangles.mean(axis=(0, 1)), (0, 0, 1), atol=1e-6)
    assert new.parts["right"] is edited.parts["right"]


def test_files_that_are_not_json_are_saved_as_h5(fitted, tmp_path):
    new = edit(fitted, "light", position=(0, 0, 2))
    (path,) = save_edited(new, new.cameras * 2, tmp_path, "scene")
    saved = load_scene(path)
    np.testing.assert_allclose(saved.triangles, new.scene.triangles, atol=1e-6)
    assert path.name == "scene.h5" and len(saved.fov_degrees) == 2
    assert save_edited(new, new.cameras, tmp_path, "scene")[0].name == "scene_2.h5"


@given(transforms, vectors, vectors)
def test_moving_turning_and_scaling_keep_the_pivot(transform, pivot, target):
    pivot = np.array(pivot)
    moved = with_pose(transform, pivot, position=target)
    np.testing.assert_allclose(position_of(moved, pivot), target, atol=1e-9)
    assert (moved.rotation, moved.scale) == (transform.rotation, transform.scale)
    before = position_of(transform, pivot)
    turned = with_pose(transform, pivot, rotation=(10, 20, 30))
    scaled = with_pose(transform, pivot, scale=(2, -1, 0.5))
    for new in (turned, scaled):
        np.testing.assert_allclose(position_of(new, pivot), before, atol=1e-9)
    assert turned.rotation == (10, 20, 30) and scaled.scale == (2, -1, 0.5)


@given(angles)
def test_quaternions_and_degrees_are_the_same_turn(degrees):
    back = rotation_xyz(np.array(degrees_of(quaternion(degrees))))
    np.testing.assert_allclose(back, rotation_xyz(np.array(degrees)), atol=1e-7)


@given(st.tuples(*[st.floats(0, 5000)] * 3))
def test_colours_are_strength_and_hue(color):
    strength, hue = split_color(color)
    assert strength == max(color) and (max(hue) == 255 or strength == 0)
    # An 8-bit step of sRGB is at most 0.9% of full brightness; half of it is lost
    np.testing.assert_allclose(join_color(strength, hue), color, atol=0.0046 * strength)


def test_known_hues():
    assert split_color((0.5, 0.5, 0.5)) == (0.5, (255, 255, 255))
    assert split_color((0, 0, 0)) == (0, (255, 255, 255))
    # IEC 61966-2-1: linear 0.2159 is 128 in 8 bits
    assert split_color((1, 0.2159, 0))[1] == (255, 128, 0)
