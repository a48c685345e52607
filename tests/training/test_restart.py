"""Runs that continue from a workdir: whole, damaged, another's, or on a full disk."""

import dataclasses
import resource
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from settings import small_config, train

from rf_jax.errors import InputError
from rf_jax.weights.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of four steps with three checkpoints."""
    workdir = tmp_path_factory.mktemp("finished")
    config = small_config(data, total_steps=4, checkpoint_every_steps=1)
    return config, workdir, train(config, workdir)


@pytest.fixture
def copy(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    return config, tmp_path / "run"


def test_last_checkpoints_are_kept(finished):
    _, workdir, state = finished
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert names == {"2", "3", "4"}
    variables, _ = load_checkpoint(workdir)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.params)


def test_a_finished_run_is_left_as_it_is(copy):
    config, workdir = copy
    before = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    state = train(config, workdir)
    assert int(state.step) == 4
    assert before == {
        path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")
    }


def test_unfinished_checkpoints_are_ignored(copy):
    """What a kill while saving leaves."""
    config, workdir = copy
    last = workdir / "checkpoints" / "4"
    last.rename(last.with_name("4.orbax-checkpoint-tmp-0"))
    variables, _ = load_checkpoint(workdir)
    state = train(config, workdir)
    assert int(state.step) == 4
    again, _ = load_checkpoint(workdir)
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_a_damaged_checkpoint_is_named(copy):
    config, workdir = copy
    largest = max((workdir / "checkpoints" / "4").rglob("d/*"), key=lambda p: p.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)
    with pytest.raises(InputError, match=r"checkpoints/4: cannot be resumed from.*remove that"):
        train(config, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    assert int(train(config, workdir).step) == 4


def test_a_reader_takes_the_next_checkpoint_when_a_run_removes_the_one_it_reads(copy, monkeypatch):
    _, workdir = copy
    steps = workdir / "checkpoints"
    (steps / "4").rename(steps / "5.hidden")
    restore = ocp.StandardCheckpointer.restore

    def disturbed(self, path, *arguments):
        if (steps / "5.hidden").exists():
            (steps / "5.hidden").rename(steps / "5")
            shutil.rmtree(steps / "3" / "variables" / "d")
        return restore(self, path, *arguments)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", disturbed)
    variables, _ = load_checkpoint(workdir)
    monkeypatch.undo()
    latest, _ = load_checkpoint(workdir)
    jax.tree.map(np.testing.assert_array_equal, variables, latest)


def test_another_network_is_refused(copy):
    config, workdir = copy
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=2))
    with pytest.raises(InputError, match=r"model.num_layers was 1, is 2"):
        train(wider, workdir)
    # Even where the configurations were deleted.
    (workdir / "training_config.json").unlink()
    with pytest.raises(InputError, match="checkpoints/4: cannot be resumed from"):
        train(wider, workdir)


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(copy):
    config, workdir = copy
    before, _ = load_checkpoint(workdir)
    # No file may grow beyond this, as if the disk were full.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    longer = dataclasses.replace(config, total_steps=8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written.*free disk space"):
            train(longer, workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after, _ = load_checkpoint(workdir)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(train(longer, workdir).step) == 8
