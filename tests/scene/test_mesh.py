import builtins

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax.datagen import primitives
from rf_jax.errors import InputError
from rf_jax.scene import mesh as meshes

angles = st.tuples(*[st.floats(-360, 360)] * 3)
factors = st.tuples(*[st.floats(0.1, 3) | st.floats(-3, -0.1)] * 3)
offsets = st.tuples(*[st.floats(-5, 5)] * 3)


def _mesh(vertices, faces):
    return trimesh.Trimesh(vertices=vertices, faces=faces, process=False)


@pytest.fixture
def sphere():
    return _mesh(*primitives.icosphere(2))


PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 1 0
3 0 1 {last}
"""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.obj", None, "no such file"),
        ("empty.obj", "", "found no faces"),
        ("text.obj", "hello\n", "found no faces"),
        ("points.obj", "v 0 0 0\nv 1 0 0\n", "found no faces"),
        ("mesh.unknown", "x", "expected a mesh file ending in .obj, .ply, .glb"),
        ("broken.glb", "glTFxxx", "not a GLB file, or cut short"),
        ("range.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "out of bounds"),
        ("range.ply", PLY.format(last=7), "out of range: expected 0 to 2, found 7"),
        ("range.ply", PLY.format(last=-1), "out of range: expected 0 to 2, found -1"),
        ("nan.obj", "v 0 0 nan\nv inf 0 0\nv 0 1 0\nf 1 2 3\n", "found 2 others"),
        ("flat.obj", "v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "3 numbers"),
    ],
)
def test_bad_meshes(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        meshes.load_mesh(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_reads_formats(tmp_path, sphere, suffix):
    path = tmp_path / f"sphere{suffix}"
    sphere.export(path)
    loaded = meshes.load_mesh(path)
    np.testing.assert_allclose(loaded.triangles, sphere.triangles, atol=1e-6)


coordinates = st.floats(-1e30, 1e30)


@settings(max_examples=30)
@given(st.lists(st.tuples(*[coordinates] * 9), min_size=1, max_size=4))
def test_a_saved_mesh_is_the_same_to_the_last_bit(tmp_path_factory, triangles):
    path = tmp_path_factory.mktemp("saved") / "new" / "a.obj"
    vertices = np.reshape(triangles, (-1, 3))
    faces = np.arange(len(vertices)).reshape(-1, 3)[:, ::-1]
    meshes.save_obj(path, vertices, faces)
    loaded = meshes.load_mesh(path)
    np.testing.assert_array_equal(loaded.triangles, vertices[faces])
    assert [file.name for file in path.parent.iterdir()] == ["a.obj"]


def test_vertices_are_not_merged(tmp_path):
    path = tmp_path / "twice.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 0\nv 0 1 0\nv -1 0 0\nf 1 2 3\nf 4 5 6\n")
    assert len(meshes.load_mesh(path).vertices) == 6


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_normalize(seed, size):
    vertices = size * np.random.default_rng(seed).normal(3, 1, (20, 3))
    result = meshes.normalize_to_unit_sphere(_mesh(vertices, [[0, 1, 2]])).vertices
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1).max(), 0.5)


def test_normalize_needs_an_extent():
    with pytest.raises(InputError, match="same point"):
        meshes.normalize_to_unit_sphere(_mesh(np.ones((3, 3)), [[0, 1, 2]]))


@settings(max_examples=30)
@given(angles, factors, offsets)
def test_transform_order(rotation, scale, translation):
    point = np.array([[0.3, -0.2, 0.5], [1, 0, 0], [0, 1, 0]])
    expected = point.T
    for axis, angle in enumerate(np.deg2rad(rotation)):
        expected = (
            trimesh.transformations.rotation_matrix(angle, np.eye(3)[axis])[:3, :3] @ expected
        )
    expected = (np.diag(scale) @ expected).T + translation
    moved = meshes.apply_transform(_mesh(point, [[0, 1, 2]]), rotation, scale, translation)
    np.testing.assert_allclose(moved.vertices, expected, atol=1e-9)


def test_rotations_by_quarter_turns():
    np.testing.assert_allclose(meshes.rotation_xyz((90, 0, 0)) @ [0, 1, 0], [0, 0, 1], atol=1e-15)
    # x first: y goes to z, and the turn about z leaves it there
    np.testing.assert_allclose(meshes.rotation_xyz((90, 0, 90)) @ [0, 1, 0], [0, 0, 1], atol=1e-15)


@pytest.mark.parametrize("scale", [(1, 1, 1), (-1, 1, 1), (-1, -2, 1), (-1, -1, -3)])
def test_mirroring_keeps_the_outside(sphere, scale):
    assert meshes.apply_transform(sphere, (0, 0, 0), scale, (0, 0, 0)).volume > 0


def test_smooth_and_flat_normals(sphere):
    radial = sphere.triangles / np.linalg.norm(sphere.triangles, axis=-1, keepdims=True)
    smooth = meshes.corner_normals(meshes.smooth_shade(sphere))
    np.testing.assert_allclose(smooth, radial, atol=0.01)
    flat = meshes.corner_normals(meshes.flat_shade(sphere))
    np.testing.assert_allclose(flat, np.repeat(sphere.face_normals[:, None], 3, 1), atol=1e-12)


def test_creases_of_a_cube_stay_sharp():
    cube = meshes.smooth_shade(trimesh.creation.box())
    normals = meshes.corner_normals(cube)
    np.testing.assert_allclose(np.sort(np.abs(normals), -1), np.tile([0, 0, 1], (12, 3, 1)))


def test_degenerate_faces_have_no_normal():
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]]
    mesh = _mesh(vertices, [[0, 1, 2], [3, 4, 5]])
    for shaded in (meshes.flat_shade(mesh), meshes.smooth_shade(mesh)):
        normals = meshes.corner_normals(shaded)
        np.testing.assert_array_equal(normals[0], [[0, 0, 1]] * 3)
        assert np.isnan(normals[1]).all()


def test_cancelling_normals_fall_back_to_the_face():
    sheet = _mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [2, 1, 0]])
    length = np.linalg.norm(meshes.corner_normals(sheet), axis=-1)
    np.testing.assert_allclose(length, 1)


@pytest.mark.parametrize("maximum", [1.0, 0.4, 0.001])
def test_random_colors_are_the_published_stream(maximum):
    cube = meshes.smooth_shade(trimesh.creation.box())
    colors = meshes.random_colors(cube, 7, maximum, "per-shading-group")
    legacy = np.random.RandomState(7)
    levels = int(np.ceil(256 * maximum))
    drawn = [legacy.randint(0, levels, (1, 3)) for _ in range(6)]
    pieces = trimesh.graph.connected_components(cube.face_adjacency, nodes=np.arange(12))
    for piece, color in zip(pieces, drawn, strict=True):
        assert (colors[piece] == color).all()


def test_random_colors_per_triangle(sphere):
    colors = meshes.random_colors(sphere, 3, 1.0, "per-triangle")
    expected = np.random.RandomState(3).randint(0, 256, (len(sphere.faces), 3))
    np.testing.assert_array_equal(colors, expected)
    assert not meshes.random_colors(sphere, 3, 0.0, "per-triangle").any()


def test_remesh(sphere):
    pytest.importorskip("pymeshlab")
    result = meshes.remesh(sphere, 100)
    assert len(result.faces) <= 100
    np.testing.assert_allclose(np.linalg.norm(result.vertices, axis=1), 0.5, atol=0.03)


def test_remesh_without_pymeshlab(sphere, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "pymeshlab":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'rf_jax\[remesh\]'"):
        meshes.remesh(sphere, 100)
