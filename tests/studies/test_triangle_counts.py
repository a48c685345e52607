"""Scenes cut finer are the same surfaces, and the table tells their sizes apart."""

import csv

import numpy as np
import pytest

from rf_jax.images.files import load_png
from rf_jax.rendering.evaluation import evaluate
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene
from rf_jax.scene.dataset import find_files
from rf_jax.studies import triangle_counts
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS


def areas(triangles):
    edges = triangles[:, 1:] - triangles[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1) / 2


def test_the_parts_of_a_triangle_are_the_triangle():
    scene = load_scene("cornell_box")
    cut = triangle_counts.subdivided(scene)
    assert len(cut.triangles) == 4 * len(scene.triangles)
    np.testing.assert_allclose(
        areas(cut.triangles).reshape(-1, 4), areas(scene.triangles)[:, None] / 4 + np.zeros(4), 1e-3
    )
    face = np.cross(*np.diff(scene.triangles, axis=1).swapaxes(0, 1))
    parts = np.cross(*np.diff(cut.triangles, axis=1).swapaxes(0, 1)).reshape(-1, 4, 3)
    assert ((parts * face[:, None]).sum(-1) > 0).all()  # they are wound as the whole is
    corners = cut.triangles.reshape(-1, 4, 3, 3)
    np.testing.assert_array_equal(corners[:, [0, 1, 2], [0, 1, 2]], scene.triangles)
    np.testing.assert_allclose(np.linalg.norm(cut.vertex_normals, axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(cut.texture[::4], scene.texture)


@pytest.mark.slow
def test_the_study_agrees_with_evaluation(tmp_path, monkeypatch, capsys):
    arguments = [BUNDLED_WEIGHTS, "--data", "tests/data/rooms", "--max_scenes", "1"]
    arguments += ["--views", "9", "--output_dir", tmp_path]
    monkeypatch.setattr("sys.argv", ["triangle_counts", *map(str, arguments)])
    triangle_counts.main()
    lines = capsys.readouterr().out.splitlines()
    assert load_png(tmp_path / "triangle_counts.png").shape == (24 + 3 * 64, 2 * 3 * 64, 3)
    assert [line[:20].strip() for line in lines[1:6:3]] == ["psnr", "psnr cut in four"]
    with (tmp_path / "triangle_counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    files = [path for path, _ in find_files(triangle_counts.Path("tests/data/rooms"), None)][:1]
    expected = evaluate(Renderer.from_pretrained(), files, None).rows
    whole = [row for row in rows if row["parts"] == "1"]
    for row, other in zip(whole, expected, strict=True):
        assert float(row["psnr"]) == pytest.approx(other["psnr"], abs=1e-4)
    assert lines[1].split()[1] == f"{np.mean([float(row['psnr']) for row in whole]):.3f}"


@pytest.mark.parametrize("option", ["--max_scenes", "--views"])
def test_counts_of_0_are_refused(command, option):
    arguments = [BUNDLED_WEIGHTS, "--data", "tests/data/rooms", option, 0]
    status, _, err = command("rf_jax.studies.triangle_counts", *arguments)
    assert status == 2 and "expected positive numbers" in err


def test_a_folder_without_scenes_is_refused(refused, tmp_path):
    arguments = [BUNDLED_WEIGHTS, "--data", tmp_path]
    assert "found none" in refused("rf_jax.studies.triangle_counts", *arguments)
