"""Where glTF nodes put meshes and cameras."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rf_jax.errors import InputError
from rf_jax.geometry import world_to_camera_points
from rf_jax.scene.gltf.load import load_gltf
from tests.scene.gltf.conftest import CORNER


def load(gltf, tmp_path):
    return load_gltf(gltf.write(tmp_path / "scene.glb"))[0]


def z_up(points):
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    return np.stack([x, -z, y], axis=-1)


def random_placement(rng):
    """Values of a node, and what they do to points [..., 3]."""
    rotation, translation = Rotation.random(random_state=rng), rng.normal(size=3)
    scale = rng.uniform(0.5, 2, 3)
    node = {
        "rotation": rotation.as_quat().tolist(),
        "translation": translation.tolist(),
        "scale": scale.tolist(),
    }
    return node, lambda points: rotation.apply(points * scale) + translation


def as_matrix(place):
    """The same placement as a node's column-major matrix."""
    origin = place(np.zeros((1, 3)))[0]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (place(np.eye(3)) - origin).T, origin
    return {"matrix": matrix.T.ravel().tolist()}


def test_y_up_becomes_z_up(gltf, tmp_path):
    gltf.node(primitives=[gltf.triangles([[1, 2, 3], [2, 2, 3], [1, 4, 3]])])
    triangles = load(gltf, tmp_path).triangles
    np.testing.assert_array_equal(triangles[0], [[1, -3, 2], [2, -3, 2], [1, -3, 4]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("as_matrices", [(), (1,), (0, 1, 2)])
def test_nested_transforms_compose(gltf, tmp_path, seed, as_matrices):
    rng = np.random.default_rng(seed)
    mesh = gltf.add("meshes", primitives=[gltf.triangles(CORNER)])
    points, children = np.array(CORNER, float), []
    for depth in range(3):  # the innermost first
        values, place = random_placement(rng)
        points = place(points)
        values = as_matrix(place) if depth in as_matrices else values
        more = {"mesh": mesh} if depth == 0 else {"children": children}
        children = [gltf.node(root=depth == 2, **values, **more)]
    scene = load(gltf, tmp_path)
    np.testing.assert_allclose(scene.triangles[0], z_up(points), atol=1e-5)


def test_normals_follow_the_surface(gltf, tmp_path):
    """The normals of a stretched and turned sphere are those of its faces, and point outwards."""
    import trimesh

    sphere = trimesh.creation.icosphere(3)
    indices = sphere.faces.ravel()
    primitive = gltf.triangles(sphere.vertices, indices=indices, NORMAL=5 * sphere.vertices)
    values, _ = random_placement(np.random.default_rng(0))
    gltf.node(primitives=[primitive], **values | {"scale": [2, 0.5, -1]})  # also mirrored
    scene = load(gltf, tmp_path)
    triangles, normals = scene.triangles[:-1], scene.vertex_normals[:-1]  # without the light
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    faces = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    faces /= np.linalg.norm(faces, axis=-1, keepdims=True)
    outwards = triangles.mean(axis=1) - triangles.mean(axis=(0, 1))
    assert ((faces * outwards).sum(axis=-1) > 0).all()
    assert ((faces[:, None] * normals).sum(axis=-1) > 0.85).all()


def test_normals_are_those_of_the_faces_where_the_file_has_none(triangle, tmp_path):
    np.testing.assert_allclose(load(triangle, tmp_path).vertex_normals[0], [[0, -1, 0]] * 3)


@pytest.mark.parametrize("seed", range(3))
def test_cameras_look_along_minus_z(triangle, tmp_path, seed):
    values, place = random_placement(np.random.default_rng(seed))
    values["scale"], scale = [2, 2, 2], values["scale"]
    perspective = {"yfov": 0.8, "aspectRatio": 1.5, "znear": 0.1}
    camera = triangle.add("cameras", type="perspective", perspective=perspective)
    triangle.node(camera=camera, **values)
    scene = load(triangle, tmp_path)
    np.testing.assert_allclose(scene.fov_degrees, np.rad2deg(0.8), rtol=1e-6)
    ahead, above, beside = (
        z_up(place(np.array([point]) * 2 / scale))
        for point in ([0, 0, -1], [0, 0.5, -1], [0.5, 0, -1])
    )
    seen = [
        world_to_camera_points(jnp.asarray(p, jnp.float32), jnp.asarray(scene.camera_to_world))
        for p in (ahead, above, beside)
    ]
    np.testing.assert_allclose(seen[0], [[0, 0, -2]], atol=1e-5)
    np.testing.assert_allclose(seen[1], [[0, 1, -2]], atol=1e-5)
    np.testing.assert_allclose(seen[2], [[1, 0, -2]], atol=1e-5)


def test_several_cameras_are_several_views(triangle, tmp_path):
    for fov in (0.5, 1.0):
        camera = triangle.add("cameras", type="perspective", perspective={"yfov": fov})
        triangle.node(camera=camera, translation=[0, 0, 5 * fov])
    scene = load(triangle, tmp_path)
    np.testing.assert_allclose(scene.camera_to_world[:, :3, 3], [[0, -2.5, 0], [0, -5, 0]])
    np.testing.assert_allclose(scene.fov_degrees, np.rad2deg([0.5, 1.0]), rtol=1e-6)


def test_only_the_default_scene_is_shown(triangle, tmp_path):
    hidden = triangle.node(root=False, primitives=[triangle.triangles(np.multiply(CORNER, 9))])
    triangle.document["scenes"].insert(0, {"nodes": [hidden]})
    triangle.document["scene"] = 1
    assert load(triangle, tmp_path).object_names == ("corner", "light")
    triangle.document["scene"] = 0
    assert load(triangle, tmp_path).object_names == ("mesh_1", "light")


def test_a_file_without_scenes_shows_all_its_trees(triangle, tmp_path):
    inner = triangle.node(root=False, name="inner", mesh=0)
    triangle.node(root=False, name="outer", children=[inner])
    del triangle.document["scenes"], triangle.document["scene"]
    assert load(triangle, tmp_path).object_names == ("corner", "inner", "light")


def test_a_skin_moves_its_mesh(gltf, tmp_path):
    """The mesh's own node counts for nothing; two joints share the third corner."""
    arrays = {
        "JOINTS_0": gltf.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], "u1"),
        "WEIGHTS_0": gltf.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]]),
    }
    mesh = gltf.add("meshes", primitives=[gltf.triangles(CORNER, **arrays)])
    joints = [gltf.node(), gltf.node(translation=[0, 0, -4])]
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[:, 0, 3] = 10
    inverse = gltf.array(inverse.swapaxes(1, 2))
    skin = gltf.add("skins", joints=joints, inverseBindMatrices=inverse)
    gltf.node(mesh=mesh, skin=skin, scale=[7, 7, 7])
    expected = z_up([[10, 0, 0], [11, 0, -4], [10, 2, -2]])
    np.testing.assert_allclose(load(gltf, tmp_path).triangles[0], expected, atol=1e-5)
    gltf.document["skins"][0]["joints"] = joints[:1]
    with pytest.raises(InputError, match="expected joints below 1, found 1"):
        load(gltf, tmp_path)


def test_a_skin_moves_only_the_primitives_that_have_joints(gltf, tmp_path):
    arrays = {
        "JOINTS_0": gltf.array([[0, 0, 0, 0]] * 3, "u1"),
        "WEIGHTS_0": gltf.array([[1, 0, 0, 0]] * 3),
    }
    skin = gltf.add("skins", joints=[gltf.node(translation=[0, 0, 5])])
    primitives = [gltf.triangles(CORNER, **arrays), gltf.triangles(2 * CORNER)]
    gltf.node(primitives=primitives, skin=skin, translation=[7, 0, 0])
    triangles = load(gltf, tmp_path).triangles
    np.testing.assert_allclose(triangles[0], z_up(np.add(CORNER, [0, 0, 5])), atol=1e-6)
    for triangle in triangles[1:3]:
        np.testing.assert_allclose(triangle, z_up(np.add(CORNER, [7, 0, 0])), atol=1e-6)


def test_joints_below_0(gltf, tmp_path):
    joints = gltf.array([[-3, 0, 0, 0]] * 3, "i1")
    arrays = {"JOINTS_0": joints, "WEIGHTS_0": gltf.array([[1, 0, 0, 0]] * 3)}
    skin = gltf.add("skins", joints=[gltf.node()])
    gltf.node(primitives=[gltf.triangles(CORNER, **arrays)], skin=skin)
    with pytest.raises(InputError, match="JOINTS_0: expected unsigned integers"):
        load(gltf, tmp_path)


def test_nodes_that_are_no_tree(triangle, tmp_path):
    nodes = triangle.document["nodes"]
    cases = [
        ({"children": [0]}, r"nodes\[0\]: reached twice; nodes must form a tree"),
        ({"children": [5]}, r"nodes\[0\]: expected an index below 1, found 5"),
        ({"rotation": [0, 0, 0, 0]}, r"nodes\[0\].rotation: expected a unit quaternion"),
        ({"matrix": [1] * 16}, r"nodes\[0\].matrix: expected a last row"),
        (
            {"scale": [1e38] * 3, "matrix": [1e308] * 16},
            r"nodes\[0\].matrix\[0\]: expected a finite",
        ),
        ({"mesh": 3}, r"nodes\[0\].mesh: expected an index below 1, found 3"),
        ({"camera": 0}, r"nodes\[0\].camera: expected an index below 0"),
    ]
    original = dict(nodes[0])
    for change, message in cases:
        nodes[0] = original | change
        with pytest.raises(InputError, match=message):
            load(triangle, tmp_path)


def test_transforms_beyond_numbers(triangle, tmp_path):
    child = 0
    for _ in range(12):
        child = triangle.node(root=False, scale=[1e38] * 3, children=[child])
    triangle.document["scenes"][0]["nodes"] = [child]
    with pytest.raises(InputError, match="its transform is beyond"):
        load(triangle, tmp_path)


def test_a_flat_mesh_keeps_what_has_area(gltf, tmp_path):
    """A scale of 0 leaves a triangle in its plane, and no other."""
    across = [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    gltf.node(scale=[1, 1, 0], primitives=[gltf.triangles(CORNER), gltf.triangles(across)])
    scene = load(gltf, tmp_path)
    assert scene.object_names == ("mesh_0/0", "light")
    np.testing.assert_allclose(scene.vertex_normals[0], [[0, -1, 0]] * 3)
