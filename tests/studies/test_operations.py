"""Operations by formula against those of compiled programs."""

import dataclasses

import pytest

from rf_jax.models import VARIANTS
from rf_jax.studies import operations


@pytest.mark.parametrize(("variant", "triangles"), [("testing", 510), ("testing_v2", 513)])
def test_formulas_count_what_programs_do(variant, triangles):
    """Scenes that need little padding; programs also resize images, and encode more of V2."""
    config = dataclasses.replace(VARIANTS[variant], view_independent_attention="auto")
    first, view = operations.count_operations(config, triangles, 64)
    assert 1 <= first.compiled / first.formula < 1.09
    assert 1 <= view.compiled / view.formula < 1.12


def test_windows_cost_little_more_than_their_pairs():
    """A tile of 192 tokens meets 704 places of the sequence, of which each token reads 513."""
    v2 = dataclasses.replace(VARIANTS["testing_v2"].v2, summary_block_size=64)
    config = dataclasses.replace(VARIANTS["testing_v2"], v2=v2)
    windowed, _ = operations.count_operations(config, 4097, 64)
    assert 1 <= windowed.compiled / windowed.formula < 704 / 513


def test_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["operations", "--variant", "testing", "--triangles", "65"])
    operations.main()
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "TFLOP of testing, auto, fp32"
    count, *numbers = row.split()
    assert count == "65" and len(numbers) == 4 and all(float(x) > 0 for x in numbers)


def test_numbers_that_are_none(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["operations", "--triangles", "0"])
    with pytest.raises(SystemExit):
        operations.main()
    assert "expected positive numbers" in capsys.readouterr().err
