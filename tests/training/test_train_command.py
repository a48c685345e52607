"""`python train.py`: from start to end, stopped by SIGTERM, or given a wrong key."""

import shutil
import signal

import pytest
from processes import (
    finish,
    free_port,
    load_latest,
    logged_losses,
    slurm_variables,
    start_run,
    wait_for_step,
)
from settings import ROOT

from rf_jax.config_files import load_config_file
from rf_jax.errors import InputError
from rf_jax.training import joining
from rf_jax.training.config import TrainingConfig
from rf_jax.weights.pretrained import load_pretrained


def test_the_debug_run_succeeds(data, tmp_path):
    options = ["--config.data.resolution=16", "--config.data.max_triangles=8"]
    finish(start_run(data, tmp_path, *options, config="configs/debug.py"))
    assert list(logged_losses(tmp_path)) == [5, 10, 15, 20]
    config = load_config_file(TrainingConfig, str(ROOT / "configs" / "debug.py"), options)
    assert load_pretrained(tmp_path).config == config.model
    assert load_latest(tmp_path)["training['step']"] == config.total_steps


def test_a_wrong_key_is_reported_in_one_line(tmp_path):
    run = start_run("data", tmp_path, "--config.batchsize=3")
    _, errors = run.communicate()
    assert run.returncode == 2
    assert errors.count("\n") == 1 and "batch_size" in errors


def test_numbers_of_processes_need_a_coordinator(command, tmp_path):
    arguments = ("--config", "debug", "--workdir", tmp_path / "run", "--num_processes", 2)
    status, _, errors = command(str(ROOT / "train.py"), *arguments, "--process_id", 1)
    assert status == 2 and "give --coordinator HOST:PORT" in errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost", "expected host:port, found 'localhost'"),
        ("localhost:0", "expected host:port"),
        ("localhost:PORT", "no process listens there after 0.5 seconds"),
    ],
)
def test_a_wrong_coordinator_is_given_up(address, expected, monkeypatch):
    monkeypatch.setattr(joining, "JOIN_SECONDS", 0.5)
    coordinator = address.replace("PORT", str(free_port()))
    with pytest.raises(InputError, match=f"--coordinator.*{expected}"):
        joining.join(coordinator, 2, 1)


@pytest.mark.slow
def test_sigterm_to_one_of_two_tasks_saves_and_ends_both_and_one_task_continues(data, tmp_path):
    options = ["--config.total_steps=100000", "--config.checkpoint_every_steps=100000"]
    runs = [
        start_run(data, tmp_path, *options, "--multi_process", **variables)
        for variables in slurm_variables(2, free_port())
    ]
    reached = wait_for_step(runs[0], 3)
    runs[1].send_signal(signal.SIGTERM)
    finish(*runs)
    stopped = load_latest(tmp_path)["training['step']"]
    assert 3 <= reached <= stopped < 100000
    (alone,) = slurm_variables(1, free_port())
    options = [f"--config.total_steps={stopped + 1}", "--multi_process"]
    finish(start_run(data, tmp_path, *options, **alone))
    assert load_latest(tmp_path)["training['step']"] == stopped + 1
    assert sorted(logged_losses(tmp_path)) == list(range(1, stopped + 2))


@pytest.mark.slow
def test_tasks_with_other_options_or_files_all_say_so(data, tmp_path):
    """Of an option, of the files, and of what only process 0 finds."""
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    next(fewer.glob("*.h5")).unlink()
    (tmp_path / "file").touch()
    cases = [
        ((data, "run", "--config.seed=1"), (data, "run", "--config.seed=2"), "config.seed: expect"),
        ((data, "run"), (fewer, "run"), "training files: expected the same in all processes"),
        ((data, "file/run"), (data, "file/run"), "file/run: cannot be written"),
    ]
    for *tasks, message in cases:
        variables = slurm_variables(2, free_port())
        runs = [
            start_run(folder, tmp_path / workdir, "--multi_process", *options, **variables[i])
            for i, (folder, workdir, *options) in enumerate(tasks)
        ]
        for run in runs:
            _, errors = run.communicate(timeout=400)
            assert run.returncode == 2 and f"{message}" in errors.splitlines()[-1], errors
