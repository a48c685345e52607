"""`python train.py`: from start to end, stopped by SIGTERM, or given a wrong key."""

import argparse
import signal

import pytest
from processes import finish, free_port, load_latest, logged_losses, start_run, wait_for_step
from settings import ROOT

from rf_jax.commands import train
from rf_jax.config_files import load_config_file
from rf_jax.errors import InputError
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


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost", "expected host:port, found 'localhost'"),
        ("localhost:0", "expected host:port"),
        ("localhost:PORT", "no process listens there after 0.5 seconds"),
    ],
)
def test_a_wrong_coordinator_is_given_up(address, expected, monkeypatch):
    monkeypatch.setattr(train, "JOIN_SECONDS", 0.5)
    coordinator = address.replace("PORT", str(free_port()))
    args = argparse.Namespace(coordinator=coordinator, num_processes=2, process_id=1)
    with pytest.raises(InputError, match=f"--coordinator.*{expected}"):
        train.connect(args)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_and_ends_both(data, tmp_path):
    options = [
        "--config.total_steps=100000",
        "--config.checkpoint_every_steps=100000",
        f"--coordinator=localhost:{free_port()}",
        "--num_processes=2",
    ]
    runs = [start_run(data, tmp_path, *options, f"--process_id={i}") for i in (0, 1)]
    reached = wait_for_step(runs[0], 3)
    runs[1].send_signal(signal.SIGTERM)
    finish(*runs)
    assert 3 <= reached <= load_latest(tmp_path)["training['step']"] < 100000
