"""The table of what a layer costs."""

import pytest

from rf_jax.studies import layer_cost


def test_the_table(monkeypatch, capsys):
    arguments = ["--tokens", "300", "--variant", "testing", "--attention", "auto", "pooled"]
    monkeypatch.setattr("sys.argv", ["layer_cost", *arguments, "latent"])
    layer_cost.main()
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["auto", "pooled", "latent"]
    assert rows["auto"][2] == "1.0"
    assert rows["pooled"][2] == f"{300**2 / (256**2 + 44**2 + 300):.1f}"
    assert rows["latent"][2] == f"{300 / 256:.1f}"
    assert all(float(row[3]) > 0 and float(row[4]) > 0 for row in rows.values())


@pytest.mark.parametrize("option", ["--tokens", "--repeats"])
def test_numbers_that_are_none(monkeypatch, capsys, option):
    monkeypatch.setattr("sys.argv", ["layer_cost", option, "0"])
    with pytest.raises(SystemExit):
        layer_cost.main()
    assert "expected positive numbers" in capsys.readouterr().err


def test_the_sinks_of_v2_are_added(monkeypatch, capsys):
    """Of 2,000 triangles one emits, and 8 of the others have a summary."""
    arguments = ["--tokens", "2000", "--variant", "testing_v2", "--attention", "sliding_sink"]
    monkeypatch.setattr("sys.argv", ["layer_cost", *arguments])
    layer_cost.main()
    row = capsys.readouterr().out.splitlines()[2].split()
    normal, sinks, window = 1999, 2 + 64 + 1999 // 8 + 1, 256
    length = sinks + normal
    pairs = sinks * length + normal * sinks + normal * (2 * window + 1) - window * (window + 1)
    assert row[2] == f"{length**2 / pairs:.1f}" == "2.3"
    assert float(row[5].removesuffix("%")) > 0
