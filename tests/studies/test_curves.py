"""Curves of runs, read back from the event files that training writes."""

import numpy as np
import pytest
import tensorboardX

from rf_jax.errors import InputError
from rf_jax.images.files import load_png
from rf_jax.studies import curves


def write_run(workdir, psnr, steps_per_second=2.0):
    with tensorboardX.SummaryWriter(str(workdir / "tensorboard")) as writer:
        for step in (10, 20, 30, 40):
            writer.add_scalar("speed/steps_per_second", steps_per_second, step)
        for step, value in psnr.items():
            writer.add_scalar("validation/psnr", value, step)
            writer.add_scalar("validation/ssim", value / 100, step)
    return workdir


def test_curves_have_steps_seconds_and_values(tmp_path):
    found = curves.read_curves(write_run(tmp_path, {20: 10.0, 40: 12.5}, 4.0))
    np.testing.assert_allclose(found["psnr"], [[20, 5, 10], [40, 10, 12.5]], rtol=1e-6)
    assert "lpips" not in found


def test_runs_are_compared_at_the_last_step_of_all(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "a", {20: 10.0, 40: 12.5})
    write_run(tmp_path / "b", {20: 11.0})
    output = tmp_path / "curves.png"
    arguments = [tmp_path / "a", tmp_path / "b", "--output_dir", tmp_path]
    monkeypatch.setattr("sys.argv", ["curves", *map(str, arguments)])
    curves.main()
    _, a, b, _ = capsys.readouterr().out.splitlines()
    assert a.split() == ["a", "20", "10", "10.00", "0.1000", "n/a"]
    assert b.split() == ["b", "20", "10", "11.00", "0.1100", "n/a"]
    assert load_png(output).ndim == 3


def test_a_folder_without_figures(tmp_path):
    with pytest.raises(InputError, match="no validation figures; expected a workdir"):
        curves.read_curves(tmp_path)


def test_runs_of_the_same_last_name_are_told_apart(tmp_path):
    a, b, c = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"
    assert curves.distinct_names([a, c]) == ["run", "other"]
    assert curves.distinct_names([a, b, c]) == ["a/run", "b/run", "b/other"]
    with pytest.raises(InputError, match="given twice"):
        curves.distinct_names([a, tmp_path / "b" / ".." / "a" / "run"])
