"""Evaluation: metrics of known images, and the command as a whole."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rf_jax.images import lpips
from rf_jax.images.comparison import TITLE_HEIGHT
from rf_jax.images.files import load_png
from rf_jax.images.lpips import Perceptual
from rf_jax.rendering import evaluation
from rf_jax.scene import save_h5
from rf_jax.scene.random_scene import random_scene
from rf_jax.weights.checkpoint import save_checkpoint


@pytest.fixture
def data(tmp_path):
    """Two scenes with one image of 16x16 pixels each."""
    images = np.random.default_rng(0).uniform(0, 2, (2, 1, 16, 16, 4)).astype(np.float16)
    for i in range(2):
        save_h5(random_scene(6), tmp_path / "data" / f"scene_{i}.h5", images=images[i])
    return tmp_path / "data"


def offline(*_):
    raise OSError("offline")


@pytest.fixture
def weights(config, variables, tmp_path):
    save_checkpoint(tmp_path / "weights", variables, config.to_dict())
    return tmp_path / "weights"


def test_perfect_and_noisy_images(lpips_weights):
    rng = np.random.default_rng(0)
    target = rng.uniform(0, 4, (2, 16, 16, 3)).astype(np.float32)
    perceptual = Perceptual(str(lpips_weights))
    row = evaluation.compare(target, target, perceptual)
    assert row["psnr"] == np.inf
    np.testing.assert_allclose([row["ssim"], row["lpips"], row["hdr_flip"]], [1, 0, 0], atol=1e-5)
    noisy = np.clip(target + rng.normal(0, 0.1, target.shape), 0, None).astype(np.float32)
    worse = evaluation.compare(noisy, target, perceptual)
    mse = ((np.clip(noisy, 0, 1) - np.clip(target, 0, 1)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(worse["psnr"], (-10 * np.log10(mse)).mean(), rtol=1e-4)
    assert worse["ssim"] < 1 and worse["lpips"] > 0 and worse["hdr_flip"] > 0.01


def test_lpips_is_traced_once_for_scenes_of_any_number_of_views(lpips_weights, monkeypatch):
    traces, apply = [], lpips._Lpips.apply

    def counted(*arguments):
        traces.append(arguments)
        return apply(*arguments)

    monkeypatch.setattr(lpips._Lpips, "apply", counted)
    perceptual = lpips.Perceptual(str(lpips_weights))
    for views in (1, 2, 3, 1):
        image = np.full((views, 16, 16, 3), 0.5, np.float32)
        evaluation.compare(image, image, perceptual)
    assert len(traces) == 1


def test_command_prints_a_table_and_writes_files(command, weights, data, lpips_weights, tmp_path):
    status, out, _ = command(
        "rf_jax.evaluate", "--checkpoint", weights, "--data", data,
        "--lpips_weights", lpips_weights, "--output_dir", "out",
    )  # fmt: skip
    assert status == 0 and out.endswith("-> out/evaluation.json, sheet.png, worst.png\n")
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [row["scene"] for row in result["scenes"]] == ["scene_0", "scene_1"]
    for metric in evaluation.METRICS:
        values = [row[metric] for row in result["scenes"]]
        np.testing.assert_allclose(result["mean"][metric], np.mean(values))
    assert f"{result['mean']['psnr']:.2f}" in out.splitlines()[3]
    sheet, worst = (load_png(tmp_path / "out" / f"{name}.png") for name in ("sheet", "worst"))
    by_psnr = np.argsort([row["psnr"] for row in result["scenes"]])
    rows, ordered = (x[TITLE_HEIGHT:].reshape(2, 256, 3 * 256, 3) for x in (sheet, worst))
    np.testing.assert_array_equal(ordered, rows[by_psnr])


@pytest.mark.parametrize("light", [0, 1e-7, 2e-6])
def test_black_views_are_compared(light):
    """In a process of its own, because the library may end it."""
    program = f"""
import numpy as np
from rf_jax.rendering.evaluation import compare
target = np.full((1, 16, 16, 3), {light}, np.float32)
print(compare(target, target, None)["hdr_flip"], compare(target + 1, target, None)["hdr_flip"])
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True)
    same, brighter = map(float, result.stdout.split())
    assert same == 0 and brighter > 0.1


def test_results_are_written_before_anything_is_printed(
    command, weights, data, monkeypatch, tmp_path
):
    def fail(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("rf_jax.images.lpips.hf_hub_download", offline)
    monkeypatch.setattr("builtins.print", fail)
    arguments = ("--checkpoint", weights, "--data", data, "--output_dir", tmp_path / "out")
    command("rf_jax.evaluate", *arguments)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.json", "sheet.png", "worst.png",
    ]  # fmt: skip


def test_less_than_one_scene_is_refused(command, weights, data):
    arguments = ("--checkpoint", weights, "--data", data, "--max_scenes", "-1")
    status, _, err = command("rf_jax.evaluate", *arguments)
    assert status == 2 and "--max_scenes: expected at least 1, found -1" in err


def test_summaries():
    rows = [{"psnr": float(i), "ssim": 0.5, "hdr_flip": i * i} for i in range(21)]
    summary = evaluation.summaries(rows)
    assert summary["mean"] == {"psnr": 10, "ssim": 0.5, "hdr_flip": 2870 / 21}
    assert summary["median"]["hdr_flip"] == 100
    assert summary["worst"]["psnr"] == 4.5  # of the scenes 0 to 9


def test_lpips_is_reported_as_unavailable(command, weights, data, monkeypatch):
    monkeypatch.setattr("rf_jax.images.lpips.hf_hub_download", offline)
    arguments = ("--checkpoint", weights, "--data", data, "--max_scenes", 1)
    status, out, _ = command("rf_jax.evaluate", *arguments)
    assert status == 0 and out.startswith("LPIPS unavailable: ") and "n/a" in out
