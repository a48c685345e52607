"""Weights of exact attention lose nothing to a window that holds everything."""

import csv

import pytest

from rf_jax.errors import InputError
from rf_jax.studies import windows


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["windows", "--data", "tests/data/rooms", *map(str, arguments)])
    windows.main()


@pytest.mark.slow
def test_the_smallest_window_that_loses_nothing_is_found(tmp_path, monkeypatch, capsys):
    arguments = ["--max_scenes", 1, "--views", 1, "--windows", 4, 128, "--block", 8]
    run(monkeypatch, *arguments, "--output_dir", tmp_path)
    with (tmp_path / "windows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        if row["window"] == "128":  # all triangles of the scene
            assert float(row["token_error"]) < 1e-4 and abs(float(row["lost_db"])) < 1e-3
            assert float(row["psnr_to_exact"]) > 80 and float(row["cost"]) == 1
        else:
            assert float(row["token_error"]) > 1e-2 and 0 < float(row["cost"]) < 0.5
            assert float(row["psnr_to_exact"]) < 60
    errors = {row["attention"]: float(row["token_error"]) for row in rows if row["window"] == "4"}
    # What sees more is nearer to exact attention.
    assert errors["window, lights, summaries"] < errors["window, lights"] < errors["window"]
    out = capsys.readouterr().out
    expected = next(
        row["window"]
        for row in rows
        if row["attention"] == "window" and float(row["lost_db"]) <= windows.ALLOWED
    )
    assert out.split("at most 0.1 dB:")[1].split()[:2] == ["window", expected]


def test_scenes_that_are_too_small_are_not_compared(monkeypatch):
    with pytest.raises(InputError, match="no scene of 5000 triangles or more"):
        run(monkeypatch, "--min_triangles", 5000)


@pytest.mark.parametrize("option", ["--max_scenes", "--views", "--windows"])
def test_numbers_that_are_none(monkeypatch, capsys, option):
    with pytest.raises(SystemExit):
        run(monkeypatch, option, 0)
    assert "expected positive numbers" in capsys.readouterr().err
