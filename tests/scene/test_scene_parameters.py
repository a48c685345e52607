"""Scenes as parameters: normals follow vertices, nothing of a scene is lost, bad scenes stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

import rf_jax
from rf_jax.geometry import camera_pose, corner_normals
from rf_jax.scene.parameters import UNNAMED, scene_parameters
from rf_jax.structs import NORMAL, SPECULAR, Scene, expand_texture


def bent(points):
    """A smooth motion of space that turns no neighbouring faces by much."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    return np.stack([x + 0.05 * np.sin(3 * y), y * (1 + 0.1 * z), z + 0.1 * x], axis=-1)


SPHERE = trimesh.creation.icosphere(2, 0.4)
BOX = trimesh.creation.box((0.3, 0.4, 0.5))
CYLINDER = trimesh.creation.cylinder(0.2, 0.5, sections=32)


def built(mesh, smooth, motion=lambda points: points):
    vertices = motion(mesh.vertices)
    material = {"smooth_shading": smooth, "diffuse": (0.8, 0.2, 0.1)}
    builder = rf_jax.SceneBuilder().add_mesh((vertices, mesh.faces), material, name="thing")
    return builder.add_light((0, 0, 2)).add_camera((0, -2, 0.1)).build()


def normals_of(part, vertices):
    topology = part.topology
    return np.asarray(
        corner_normals(vertices, topology.faces, topology.shading, topology.num_groups)
    )


@pytest.mark.parametrize(
    ("mesh", "smooth"),
    [(SPHERE, True), (SPHERE, False), (BOX, False), (BOX, True), (CYLINDER, True)],
    ids=["smooth sphere", "flat sphere", "flat box", "smooth box", "cylinder with creases"],
)
def test_normals_are_those_of_the_builder(mesh, smooth):
    scene = built(mesh, smooth)
    part = scene_parameters(scene).objects["thing"]
    assert part.normals is None and len(part.vertices) == len(mesh.vertices)
    expected = scene.vertex_normals[scene.objects == 0]
    np.testing.assert_allclose(normals_of(part, part.vertices), expected, atol=2e-4)


@pytest.mark.parametrize(("mesh", "smooth"), [(SPHERE, True), (SPHERE, False), (BOX, False)])
def test_normals_follow_moving_vertices_as_if_the_scene_were_built_again(mesh, smooth):
    part = scene_parameters(built(mesh, smooth)).objects["thing"]
    again = built(mesh, smooth, bent)
    moved = normals_of(part, jnp.asarray(bent(part.vertices)))
    np.testing.assert_allclose(moved, again.vertex_normals[again.objects == 0], atol=2e-4)
    assert np.abs(moved - normals_of(part, part.vertices)).max() > 0.05


def test_a_flat_plane_creases_where_a_vertex_leaves_it():
    corners = np.float64([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    plane = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    part = scene_parameters(built(plane, False)).objects["thing"]
    (lifted,) = np.flatnonzero((part.vertices == np.float32([0, 1, 0])).all(1))
    normals = normals_of(part, part.vertices.at[lifted, 2].set(0.5))
    still = np.flatnonzero((part.topology.faces != lifted).all(1))
    np.testing.assert_allclose(normals[still], np.broadcast_to([0, 0, 1], (1, 3, 3)), atol=1e-6)
    assert (np.delete(normals, still, axis=0)[..., 2] < 0.95).all()


def test_normals_that_cancel_and_faces_without_area():
    vertices = jnp.asarray([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]], jnp.float32)
    faces = np.int32([[0, 1, 2], [0, 2, 1], [0, 1, 3], [3, 3, 3]])
    shading = np.int32([[0, 1, 2], [0, 2, 1], [3, 4, 5], [6, 7, 8]])

    def normals(vertices):
        return corner_normals(vertices, faces, shading, 9)

    up = np.float32([0, 0, 1])
    np.testing.assert_allclose(normals(vertices)[:2], [[up] * 3, [-up] * 3])
    assert not normals(vertices)[2:].any()
    assert np.isfinite(jax.jacrev(normals)(vertices)).all()


def test_normals_that_vertices_do_not_give_are_kept():
    scene = rf_jax.load_scene("cornell_box")
    turned = scene.vertex_normals.copy()
    floor = scene.objects == scene.object_names.index("floor")
    turned[floor] = np.float32([0, 0.6, 0.8])
    objects = scene_parameters(scene.replace(vertex_normals=turned)).objects
    assert [name for name, part in objects.items() if part.normals is not None] == ["floor"]
    np.testing.assert_array_equal(objects["floor"].normals, turned[floor])


def test_cameras_are_those_of_the_scene():
    builder = rf_jax.SceneBuilder().add_mesh(BOX)
    places = [(0, -2, 0), (1.5, 0.3, 1), (-0.2, 0.1, 2)]
    for place in places:
        builder.add_camera(place, up=(0.1, 0.5, 1), fov=30)
    builder.add_camera((0, -2, 0), look_at=(0, -4, 0))  # away from the origin
    scene = builder.build()
    cameras = scene_parameters(scene).cameras
    poses = camera_pose(cameras.position, cameras.target, cameras.up)
    np.testing.assert_allclose(poses, scene.camera_to_world, atol=1e-6)
    np.testing.assert_allclose(cameras.target[:3], np.zeros((3, 3)), atol=1e-6)
    np.testing.assert_allclose(cameras.target[3], [0, -3, 0], atol=1e-6)
    np.testing.assert_array_equal(cameras.fov_degrees, np.float32([30, 30, 30, 40]))


def test_materials_have_one_value_or_one_for_each_face():
    scene = rf_jax.load_scene("cornell_box")
    wall = scene.objects == scene.object_names.index("left_wall")
    texture = scene.texture.copy()
    texture[np.flatnonzero(wall)[0], SPECULAR] = 0.25
    objects = scene_parameters(scene.replace(texture=texture)).objects
    assert objects["left_wall"].specular.shape == (wall.sum(), 3)
    assert objects["left_wall"].specular[0, 0] == 0.25
    assert objects["right_wall"].specular.shape == (3,)
    assert objects["right_wall"].roughness.shape == ()
    np.testing.assert_allclose(objects["light"].emission, np.full(3, 3700))


def test_scenes_without_names_and_with_padding():
    scene = rf_jax.load_scene("cornell_box")
    arrays = scene.replace(objects=None, object_names=(), texture=expand_texture(scene.texture, 4))
    assert list(scene_parameters(arrays).objects) == [UNNAMED]
    mask = np.ones(len(scene.triangles), bool)
    mask[scene.objects == scene.object_names.index("floor")] = False
    kept = scene_parameters(scene.replace(valid_mask=mask)).objects
    assert sorted(kept) == sorted(set(scene.object_names) - {"floor"})


def test_every_leaf_is_floating_and_equal_topologies_are_one():
    first, second = (scene_parameters(built(SPHERE, True)) for _ in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(first))
    assert jax.tree.structure(first) != jax.tree.structure(scene_parameters(built(SPHERE, False)))


def patches(scene: Scene) -> Scene:
    texture = expand_texture(scene.texture, 4)
    texture[0, NORMAL.start, 0, 0] += 0.25
    return scene.replace(texture=texture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(fov_degrees=np.float32([0])), "fov_degrees: expected degrees"),
        (
            lambda s: jax.tree.map(lambda x: np.stack([x, x]), s),
            "expected one scene, found a batch",
        ),
        (patches, "texture: expected one value per triangle, found patches of several values"),
        (lambda s: "cornell_box", "scene: expected a Scene of V1, found str"),
    ],
)
def test_bad_scenes(change, message):
    with pytest.raises(rf_jax.InputError, match=message):
        scene_parameters(change(rf_jax.load_scene("cornell_box")))


def test_changes_by_name():
    parameters = scene_parameters(rf_jax.load_scene("cornell_box"))
    blue = parameters.with_object("floor", diffuse=jnp.asarray([0.1, 0.1, 0.7]))
    assert blue.objects["floor"].diffuse[2] == jnp.float32(0.7)
    assert blue.objects["left_wall"] is parameters.objects["left_wall"]
    assert parameters.with_cameras(fov_degrees=jnp.ones(1)).cameras.fov_degrees == 1
    with pytest.raises(rf_jax.InputError, match=r"no object named 'flor'; there are .*floor"):
        parameters.with_object("flor", diffuse=0)
    with pytest.raises(rf_jax.InputError, match="floor: unknown colour; expected one of vertices"):
        parameters.with_object("floor", colour=0)
