"""The commands `python -m rf_jax...` with tiny settings: what they print and write.

Files of their own test `rf_jax.evaluate`, `rf_jax.datagen` (its runs, and `path_trace`),
`rf_jax.datagen.bundled`, `rf_jax.studies.attention_maps`, `rf_jax.studies.curves` and
`rf_jax.weights.random_weights`.
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rf_jax.images.files import load_png
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS

ROOT = Path(__file__).parents[1]
ROOMS = ROOT / "tests" / "data" / "rooms"


def run(folder, *arguments):
    """The output of `python -m` in a process of its own, which must succeed."""
    line = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_benchmark(tmp_path):
    pytest.importorskip("matplotlib")
    out = run(
        tmp_path, "rf_jax.studies.benchmark", "--variant", "testing", "--triangles", 5,
        "--resolution", 16, "--attention", "auto", "performer", "--repeats", 1, "--layers", 1,
        "--csv", "times.csv", "--plot", "times.png",
    )  # fmt: skip
    assert out.count("matrix products") == 2
    rows = list(csv.DictReader((tmp_path / "times.csv").open()))
    assert len(rows) == 6  # 2 functions; 2 stages and their total
    names = "seconds", "tflops_per_second", "fraction_of_product_rate"
    for each in (rows[:3], rows[3:]):
        seconds, rates, fractions = (np.array([float(row[name]) for row in each]) for name in names)
        # The times are what they are on a busy machine; what follows from them is the same.
        first, view, both = seconds * rates
        assert first > 0 and view > 0 and both == pytest.approx(first + view)
        product_rate = (rates / fractions)[0]
        assert rates / fractions == pytest.approx(product_rate)
        assert f"matrix products {product_rate:.3f} TFLOP/s" in out
    assert load_png(tmp_path / "times.png").std() > 1


def test_precision(command):
    arguments = ("blue_room", "--checkpoint", BUNDLED_WEIGHTS, "--resolution", 16)
    status, out, _ = command("rf_jax.studies.precision", *arguments)
    _, fp32, bf16, fp16 = (line.split() for line in out.splitlines())
    assert status == 0 and fp32 == ["fp32", "0.00e+00", "inf"]
    assert 0 < float(fp16[1]) < float(bf16[1]) < 0.1


def test_input_rate(command):
    arguments = ("--data", ROOMS, "--resolution", 64, "--max_triangles", 1024)
    sizes = ("--batch_size", 1, "--views", 1, "--workers", 1, "--batches", 2)
    status, out, _ = command("rf_jax.studies.input_rate", *arguments, *sizes)
    loader, workers, rate = out.splitlines()[1].split()
    assert status == 0 and (loader, workers) == ("ours", "1") and float(rate) > 0


def test_performer_error(monkeypatch, capsys, tmp_path):
    from rf_jax.studies import performer_error

    pytest.importorskip("matplotlib")
    sizes = dict(HEAD_DIM=16, NUM_QUERIES=8, NUM_KEYS=16)
    cases = dict(SQUARED_NORMS=(0.5, 1.0), FEATURES=(8, 512), OPTIONS={"plain": {}})
    for name, value in (sizes | cases).items():
        monkeypatch.setattr(performer_error, name, value)
    arguments = ["--output_dir", str(tmp_path), "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", ["performer_error", *arguments])
    performer_error.main()
    assert capsys.readouterr().out.startswith("| data | ")
    rows = list(csv.DictReader((tmp_path / "attention_study.csv").open()))
    assert len(rows) == 2 * 2 * (1 + 2)  # data, norms; the mean of values, and two feature counts
    for few, many in zip(rows[1::3], rows[2::3], strict=True):
        assert float(many["error"]) < float(few["error"])
    assert load_png(tmp_path / "images" / "attention_study.png").std() > 1


def test_dry_run_of_datagen():
    arguments = ("--config", "configs/data_tiny.py", "--config.num_scenes=3")
    out = run(ROOT, "rf_jax.datagen", *arguments, "--dry_run")
    assert out.startswith("3 scenes, 0 failed: ") and "triangles" in out


def test_inspect(tmp_path):
    shutil.copytree(ROOMS, tmp_path, dirs_exist_ok=True)
    pytest.importorskip("matplotlib")
    entry = {"views": 1, "triangles": 9, "split": "train"}
    lines = [json.dumps(entry | {"file": path.name}) for path in sorted(tmp_path.glob("*.h5"))]
    (tmp_path / "index.jsonl").write_text("\n".join(lines) + "\n")
    out = run(ROOT, "rf_jax.datagen", "inspect", tmp_path)
    assert "4 files are valid, 16 images" in out and f"-> {tmp_path}/contact_sheet.png" in out
    assert load_png(tmp_path / "contact_sheet.png").any()


def test_furnace(monkeypatch, capsys):
    pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")
    from rf_jax.datagen import furnace

    monkeypatch.setattr(furnace, "ROUGHNESS", (0.1,))
    monkeypatch.setattr(sys, "argv", ["furnace", "scalar_rgb"])
    furnace.main()
    title, _, row = capsys.readouterr().out.splitlines()
    assert "scalar_rgb: error of the albedo" in title
    roughness, *errors = map(float, row.split())
    assert roughness == 0.1 and len(errors) == len(furnace.DEGREES) + 1
    assert max(map(abs, errors)) < 0.02
