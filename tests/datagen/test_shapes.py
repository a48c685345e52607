"""Built-in shapes are closed and within their budget; mesh files are simplified or refused."""

import numpy as np
import pytest
import trimesh

from rf_jax.datagen import primitives, shapes
from rf_jax.datagen.sampler import Shape
from rf_jax.errors import InputError
from rf_jax.scene import mesh as meshes


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_families_are_closed_and_within_budget(family):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        budget = int(np.exp(rng.uniform(np.log(32), np.log(3968))))
        budget = max(budget, shapes.MIN_KNOT_FACES) if family == "knot" else budget
        mesh = trimesh.Trimesh(*shapes.FAMILIES[family](rng, budget), process=False)
        assert 0.4 * budget <= len(mesh.faces) <= budget
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.volume > 0  # faces look outwards


def test_objects_are_diverse_and_repeatable():
    counts = set()
    for seed in range(40):
        shape = Shape("any", seed, 500)
        vertices, faces = shapes.make_mesh(shape, ())
        again, _ = shapes.make_mesh(shape, ())
        np.testing.assert_array_equal(vertices, again)
        counts.add((len(vertices), len(faces)))
    assert len(counts) > 30


def test_thin_objects_are_thin():
    for seed in range(20):
        vertices, _ = shapes.make_mesh(Shape("thin", seed, 300), ())
        plain, _ = shapes.make_mesh(Shape("any", seed, 300), ())
        ratio = np.ptp(vertices, axis=0) / np.ptp(plain, axis=0)
        assert 0.03 <= ratio.min() <= 0.15


def test_special_shapes_fit_their_budget():
    kinds = {len(shapes.make_mesh(Shape("special", seed, 100), ())[1]) for seed in range(40)}
    assert kinds == {12, 96, 80, 2}


@pytest.mark.parametrize(
    ("piece", "outside", "normal"),
    [
        ("plane", (0, 0, -1), (0, 0, 1)),
        ("wall0", (0, 1, 0), (0, -1, 0)),
        ("wall1", (1, 0, 0), (-1, 0, 0)),
        ("wall2", (-1, 0, 0), (1, 0, 0)),
    ],
)
def test_background_pieces_face_the_room(piece, outside, normal):
    mesh = trimesh.Trimesh(*shapes.background_mesh(piece, 8), process=False)
    assert len(mesh.faces) == 128 and mesh.area == pytest.approx(4)
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), outside, atol=1e-9)
    np.testing.assert_allclose(mesh.face_normals, np.tile(normal, (128, 1)), atol=1e-9)


def test_files_are_simplified(tmp_path):
    """A dense sphere, and one whose faces share no vertices."""
    vertices, faces = primitives.icosphere(4)
    trimesh.Trimesh(100 * vertices + 7, faces).export(tmp_path / "dense.ply")
    trimesh.Trimesh(
        vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3), process=False
    ).export(tmp_path / "soup.obj")
    for name in ("dense.ply", "soup.obj"):
        out, kept = shapes.load_simplified(tmp_path / name, 300)
        mesh = trimesh.Trimesh(out, kept, process=False)
        assert 250 <= len(kept) <= 300
        assert mesh.is_watertight and mesh.volume == pytest.approx(np.pi / 6, rel=0.05)


def test_a_mesh_that_is_not_a_manifold_is_used(tmp_path):
    """Three triangles at one edge, a lone one, and a degenerate one."""
    text = "v 0 0 0\nv 0 0 1\nv 1 0 0\nv 0 1 0\nv -1 -1 0\nv 3 3 3\n"
    (tmp_path / "a.obj").write_text(text + "f 1 2 3\nf 1 2 4\nf 1 2 5\nf 3 4 6\nf 1 1 2\n")
    assert len(shapes.load_simplified(tmp_path / "a.obj", 100)[1]) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no faces"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a.obj"),
        (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a.obj"),
        (b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "same point"),
        (bytes(range(256)) * 9, "a.obj"),
    ],
)
def test_bad_mesh_files(tmp_path, content, message):
    (tmp_path / "a.obj").write_bytes(content)
    with pytest.raises(InputError, match=message):
        shapes.load_simplified(tmp_path / "a.obj", 100)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.ply"
    with path.open("wb") as file:
        file.truncate(meshes.MAX_MESH_BYTES + 1)
    with pytest.raises(InputError, match=r"huge\.ply: expected at most 256 MiB"):
        shapes.load_simplified(path, 100)


def test_mesh_folders_and_lists(tmp_path):
    assert shapes.find_mesh_files(None) == ()
    (tmp_path / "sub").mkdir()
    for name in ("b.obj", "sub/a.GLB", "c.txt"):
        (tmp_path / name).write_text("")
    found = shapes.find_mesh_files(str(tmp_path))
    assert [path.name for path in found] == ["b.obj", "a.GLB"]
    (tmp_path / "list.txt").write_text("b.obj\n\nsub/a.GLB\n")
    assert shapes.find_mesh_files(str(tmp_path / "list.txt")) == (found[0], found[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        shapes.find_mesh_files(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="no such folder or list"):
        shapes.find_mesh_files(str(tmp_path / "nowhere"))
    (tmp_path / "list.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="paths as text"):
        shapes.find_mesh_files(str(tmp_path / "list.bin"))
