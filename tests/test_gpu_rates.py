"""`rf_jax.studies.gpu_rates` on the machine of the tests, at sizes that mean nothing."""

import csv
import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from rf_jax.studies import gpu_rates
from rf_jax.studies.gpu_cases import (
    Case,
    attention_cases,
    feed_forward_cases,
    stage_cases,
)


def made_up(name, function, size=64):
    x = jax.ShapeDtypeStruct((size, size), jnp.float32)

    def lower():
        return jax.jit(function).lower(x)

    flops = 2.0 * size**3
    return Case("x", "testing", name, "fp32", size, flops, lower, lambda: (jnp.ones(x.shape),))


def square(x):
    return x @ x


def refused(x):
    raise ValueError("no kernel\nand a second line")


def refused_without_a_word(x):
    raise AssertionError


def rows_of(cases, seconds):
    return list(gpu_rates.measure_cases(cases, gpu_rates.SMOKE, time.monotonic(), seconds))


def test_a_program_that_is_refused_does_not_stop_the_others(capsys):
    functions = {"bad": refused, "silent": refused_without_a_word, "good": square}
    rows = rows_of([made_up(name, function) for name, function in functions.items()], 600)
    assert [row.what for row in rows] == ["good"]
    assert rows[0].value > 0 and rows[0].fraction_of_product_rate > 0
    printed = capsys.readouterr().out
    assert "left out: testing, bad, fp32, 64; no kernel and a second line\n" in printed
    assert "left out: testing, silent, fp32, 64; AssertionError\n" in printed


def test_what_is_not_ready_in_time_is_named(capsys):
    assert not rows_of([made_up("late", square)], 0)
    assert "left out: testing, late" in capsys.readouterr().out


def test_operations_grow_as_they_should():
    forward, both = list(attention_cases("testing", ["auto"], [256]))[:2]
    assert both.flops == 3.5 * forward.flops
    forward, both, *_ = feed_forward_cases("testing", [64])
    assert both.flops == 3 * forward.flops
    first, view = stage_cases("testing", ["fp16"], [5], 16)
    assert first.size == view.size == 5 and view.what == "view of 16x16"


@pytest.mark.slow
def test_everything_is_measured(capsys, tmp_path, monkeypatch):
    small = dataclasses.replace(gpu_rates.SMOKE, attentions=("auto",), frame_count=1)
    monkeypatch.setattr(gpu_rates, "SMOKE", small)
    path = tmp_path / "folder" / "gpu.csv"
    monkeypatch.setattr(sys, "argv", ["gpu_rates", "--csv", str(path), "--smoke"])
    gpu_rates.main()
    assert "left out" not in capsys.readouterr().out
    rows = list(csv.DictReader(path.open()))
    parts = [row["part"] for row in rows]
    first = ["training"] + 4 * ["stage"] + 4 * ["attention"] + 8 * ["feed-forward"]
    assert parts == first + 4 * ["error"] + ["frames"]
    assert all(float(row["value"]) > 0 and row["device"] and row["jax"] for row in rows)
