"""Runs that continue from a workdir: whole, damaged, another's, or on a full disk."""

import dataclasses
import errno
import itertools
import json
import os
import resource
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from settings import small_config, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rf_jax.errors import InputError
from rf_jax.files import locked
from rf_jax.training.data import BatchStream
from rf_jax.training.loop import train_and_evaluate
from rf_jax.training.watcher import EventsWriter
from rf_jax.weights.checkpoint import load_checkpoint, save_checkpoint


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


def test_a_refused_command_changes_no_configuration(copy):
    config, workdir = copy
    (workdir / "training_config.json").unlink()
    before = (workdir / "config.json").read_bytes()
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=2))
    with pytest.raises(InputError, match="cannot be resumed from"):
        train(wider, workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_a_command_that_fails_before_a_step_pins_nothing(data, tmp_path, monkeypatch):
    monkeypatch.setattr(BatchStream, "__next__", _fail)
    with pytest.raises(InputError, match="fault"):
        train(small_config(data, seed=1), tmp_path)
    monkeypatch.undo()
    assert int(train(small_config(data, seed=2, total_steps=2), tmp_path).step) == 2
    assert json.loads((tmp_path / "training_config.json").read_text())["seed"] == 2


def _fail(*_):
    raise InputError("fault")


def test_two_runs_cannot_share_a_workdir(data, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another run is writing here"):
        train(small_config(data), tmp_path)


def test_the_folder_of_a_converted_network_is_no_workdir(finished, data, tmp_path):
    config, _, state = finished
    save_checkpoint(tmp_path / "converted", state.variables, config.model.to_dict())
    with pytest.raises(InputError, match="holds a network that was converted"):
        train(small_config(data), tmp_path / "converted")


def _disturb(monkeypatch, step, fault):
    """Calls `fault` when the batch of that step is read."""
    read, count = BatchStream.__next__, itertools.count(1)

    def disturbed(stream):
        if next(count) == step:
            fault()
        return read(stream)

    monkeypatch.setattr(BatchStream, "__next__", disturbed)


def test_ctrl_c_saves_a_checkpoint(copy, monkeypatch, capfd):
    config, workdir = copy
    longer = dataclasses.replace(config, total_steps=30, checkpoint_every_steps=100)
    _disturb(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(longer, workdir)
    assert (workdir / "checkpoints" / "7").is_dir()
    output, errors = capfd.readouterr()
    assert "stopped and saved after step 7" in output and "Ctrl-C again" in errors
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_the_run_at_once(copy, monkeypatch):
    config, workdir = copy
    longer = dataclasses.replace(config, total_steps=30, checkpoint_every_steps=100)

    def interrupt_twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    _disturb(monkeypatch, 3, interrupt_twice)
    with pytest.raises(KeyboardInterrupt):
        train(longer, workdir)
    assert not (workdir / "checkpoints" / "7").exists()


def test_a_run_that_can_read_no_more_saves_what_it_has(copy, monkeypatch):
    config, workdir = copy
    _disturb(monkeypatch, 3, _fail)
    close = ocp.CheckpointManager.close

    def close_with_an_error(manager):  # as after writes that failed in the background
        close(manager)
        raise ValueError("late")

    monkeypatch.setattr(ocp.CheckpointManager, "close", close_with_an_error)
    longer = dataclasses.replace(config, total_steps=30, checkpoint_every_steps=100)
    with pytest.raises(InputError, match="fault"):
        train(longer, workdir)
    assert (workdir / "checkpoints" / "6").is_dir()


def test_a_full_disk_at_the_curves_still_saves_a_checkpoint(copy, monkeypatch):
    config, workdir = copy
    write = EventsWriter.write_event

    def write_until(writer, event):
        if event.step == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(writer, event)

    monkeypatch.setattr(EventsWriter, "write_event", write_until)
    longer = dataclasses.replace(config, total_steps=30, checkpoint_every_steps=100)
    with pytest.raises(InputError, match=r"tensorboard: cannot be written \(No space left"):
        train(longer, workdir)
    assert (workdir / "checkpoints" / "9").is_dir()  # two steps are in flight


def test_every_point_is_shown_once_after_two_resumes(data, tmp_path):
    for steps in (3, 5, 8):
        config = small_config(
            data, total_steps=steps, validate_every_steps=1, data_validation_path=str(data)
        )
        train(config, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("train/loss", "validation/psnr", "speed/tflops"):
        assert [point.step for point in events.Scalars(tag)] == list(range(1, 9))


def test_a_run_says_what_it_does(data, tmp_path, capsys):
    config = small_config(data, total_steps=2)
    state = train_and_evaluate(config, tmp_path)  # two scenes take two of all devices
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"parameters: {count:,}; devices: 2 (cpu), 2 per process; scenes per step: 2, 1 per device"
    )
    assert lines[1] == f"steps 1 to 2; to watch: tensorboard --logdir {tmp_path}"
    assert lines[2].startswith("step 1 of 2: loss ") and lines[2].endswith(" left")
    assert lines[-1] == f"finished after 2 steps: {tmp_path}"
    train_and_evaluate(config, tmp_path)
    assert "finished before, after 2 steps; config.total_steps can be" in capsys.readouterr().out


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
