"""What one process finds ends all, and the GPUs of a host are shared by its processes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from processes import free_port
from settings import ROOT

from rf_jax.errors import InputError
from rf_jax.files import locked
from rf_jax.training import agreement, joining
from rf_jax.training.joining import share_gpus

SCRIPT = Path(__file__).with_name("agreeing_process.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """For both processes, what each case printed."""
    folder, port = tmp_path_factory.mktemp("agreement"), free_port()
    (folder / "of_1").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with locked(folder / "locked"):
        processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(port), str(i), str(folder)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for i in (0, 1)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [dict(x.split(": ", 1) for x in output.splitlines() if ": " in x) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("nothing", "('fine', False)", "('fine', False)"),
        ("flag", "True", "True"),
        ("bad input", "InputError: process 1: no such file", "InputError: no such file"),
        ("bug", "KeyError: 'bug'", "HopelessRun: process 0: KeyError: 'bug'"),
        ("hopeless", "HopelessRun: NaN", "HopelessRun: process 0: NaN"),
        ("block", "InputError: process 1: disk full", "InputError: disk full"),
        ("facts", "InputError: b: expected the same", "InputError: b: expected the same"),
        ("same facts", "None", "None"),
        ("shared workdir", "None", "None"),
        ("own workdirs", "InputError: process 1: ", "InputError: "),
        ("locked workdir", "InputError: ", "InputError: process 0: "),
        ("death", "HopelessRun: another process of the run has ended", None),
    ],
)
def test_two_processes_find_the_same(found, case, first, second):
    for output, expected in zip(found, (first, second), strict=True):
        if expected is None:
            assert case not in output
        elif expected.endswith((": ", "same", "ended")):
            assert output[case].startswith(expected)
        else:
            assert output[case] == expected
    if case == "facts":
        assert "found [0] in process 0" in found[0][case] and "[1] in process 1" in found[0][case]
    if case == "own workdirs":
        assert all("expected a folder that all hosts share" in output[case] for output in found)
    if case == "locked workdir":
        assert all("another run is writing here" in output[case] for output in found)


GPUS = [f"gpu{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ([GPUS], [list(range(8))]),  # one process per node
        ([GPUS] * 8, [[i] for i in range(8)]),  # one per GPU, all of which see all
        ([[gpu] for gpu in GPUS], [[0]] * 8),  # one per GPU, which sees its own only
        ([GPUS, GPUS[::-1]], [[0, 1, 2, 3], [0, 1, 2, 3]]),  # each in an order of its own
        ([["a", "b"], ["c", "d"], ["a", "b"]], [[0], [0, 1], [1]]),  # on two hosts
        ([[], []], [[], []]),
    ],
)
def test_every_gpu_belongs_to_one_process(visible, expected):
    shares = [share_gpus(visible, i) for i in range(len(visible))]
    assert shares == expected
    taken = [gpus[i] for gpus, share in zip(visible, shares, strict=True) for i in share]
    assert sorted(taken) == sorted(set().union(*visible))


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ([GPUS, GPUS[:4]], "expected processes that see the same GPUs or none in common"),
        ([GPUS] * 3, "that divides the 8 GPUs of their node, found 3"),
    ],
)
def test_gpus_that_cannot_be_shared_are_refused(visible, message):
    with pytest.raises(InputError, match=f"{message}.*one process per node or one per GPU"):
        share_gpus(visible, 0)


def test_gpus_that_nobody_uses_are_refused():
    alone = [["node1", GPUS[:1], "8"], ["node2", ["other"], "8"]]
    with pytest.raises(InputError, match=r"node1: expected to use all 8 GPUs.*see 1; start one"):
        joining._check_all_used(alone)
    joining._check_all_used([["node1", GPUS[:4], "8"], ["node1", GPUS[4:], "8"]])
    joining._check_all_used([["node1", GPUS[:1], ""]])


def test_processes_agree_on_their_shares_before_they_look_for_devices(monkeypatch):
    """JAX's search for devices waits for processes that have refused their share."""
    order, devices = [], jax.devices()[:1]
    monkeypatch.setattr(agreement, "_meet", lambda _, answer: order.append("agree") or [answer])
    monkeypatch.setattr(joining.jax, "local_devices", lambda: order.append("devices") or devices)
    joining._share_devices()
    assert order == ["agree", "agree", "devices"]  # the first tells what each process sees


def test_gpus_that_jax_does_not_find_are_reported():
    with pytest.raises(InputError, match=r"expected 8 GPUs, JAX found 1 devices of kind cpu; pip"):
        joining._check_devices(jax.devices()[:1], 8)
    joining._check_devices(jax.devices()[:1], 0)


def test_no_gpu_is_looked_for_where_another_platform_is_chosen(monkeypatch):
    monkeypatch.setattr(joining.ctypes, "CDLL", lambda *_: pytest.fail("asked the driver"))
    assert joining.visible_gpus() == []
