"""The command rf-jax-plan: what fits, what is tried, what it says without the compiler."""

import dataclasses
import importlib.util
import subprocess
import sys

import jax
import pytest

from rf_jax.config_files import load_config_file
from rf_jax.planning import programs
from rf_jax.planning.gpus import GIB, GPUS
from rf_jax.planning.programs import Plan
from rf_jax.planning.report import plan_lines, trial_lines
from rf_jax.planning.roofline import Kernel, Roofline
from rf_jax.planning.trials import best, find_fitting, fits
from rf_jax.rendering.sharding import device_mesh
from rf_jax.training.config import TrainingConfig

HAS_COMPILER = bool(
    importlib.util.find_spec("jax_plugins")
    and any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13))
)

H100 = GPUS["h100"]


def made_up_plan(config, devices=8, activations=200.0, seconds=0.1):
    """A plan whose memory is what the settings should make of it, in GiB."""
    scale = (0.25 if config.remat else 1.0) / config.accumulation_steps
    memory = {
        "parameters": 10 / config.fsdp,
        "optimizer": 20 / config.fsdp,
        "activations": activations * scale,
        "temporaries": 4 * scale,
    }
    memory = {kind: round(size * GIB) for kind, size in memory.items()}
    seconds *= 1.3 if config.remat else 1.0
    kernels = (Kernel("product", "a/b", 1, 1e12, 1e9, seconds / 2, seconds),)
    return Plan("training step", devices, memory, Roofline(kernels, 0))


def run_trials(activations, **changes):
    config = load_config_file(TrainingConfig, "base_256")
    config = dataclasses.replace(config, **changes)

    def plan(changes):
        return made_up_plan(dataclasses.replace(config, **changes), activations=activations)

    trials = find_fitting(config, plan({}), H100, plan)
    chosen = best(trials, H100)
    return [trial.changes for trial in trials], chosen and chosen.changes


def test_the_cheapest_change_that_fits_is_advised():
    tried, chosen = run_trials(100.0)
    assert tried == [{"accumulation_steps": 4}, {"remat": True}]
    assert chosen == {"accumulation_steps": 4}


def test_changes_are_combined_if_none_is_enough():
    tried, chosen = run_trials(1400.0)
    assert tried == [{"remat": True}, {"remat": True, "accumulation_steps": 16}]
    assert chosen == tried[-1]


def test_parameters_are_split_at_last():
    tried, chosen = run_trials(3400.0)
    assert tried[-1] == chosen == {"remat": True, "accumulation_steps": 16, "fsdp": 8}


def test_nothing_fits():
    tried, chosen = run_trials(34_000.0)
    assert chosen is None and len(tried) == 3


def test_settings_in_use_are_not_advised():
    tried, chosen = run_trials(500.0, remat=True, accumulation_steps=2)
    assert tried == [{"accumulation_steps": 4}] and chosen == tried[0]


def test_a_guess_that_was_wrong_is_not_tried_again():
    """Memory does not shrink as it should until there is one scene a device and part."""
    config = load_config_file(TrainingConfig, "base_256")
    config = dataclasses.replace(config, remat=True)
    most = config.batch_size // 8

    def plan(changes):
        parts = changes.get("accumulation_steps", 1)
        changed = dataclasses.replace(config, accumulation_steps=parts if parts == most else 1)
        return made_up_plan(changed, activations=500.0)

    tried = [trial.changes for trial in find_fitting(config, plan({}), H100, plan)]
    assert len(tried) == 2 and tried[0]["accumulation_steps"] < most
    assert tried[1] == {"accumulation_steps": most}


def test_devices_that_a_small_batch_leaves_out_are_not_planned_for(monkeypatch, caplog):
    config = load_config_file(TrainingConfig, "debug")
    config = dataclasses.replace(config, batch_size=4)
    monkeypatch.setattr(programs, "gpu_devices", lambda _, count: jax.devices()[:count])
    monkeypatch.setattr(programs, "plan_program", lambda *arguments: arguments[1::3])
    lowered, devices = programs.plan_training(config, H100, 8)
    assert devices == 4 and "mhlo.num_partitions = 4 " in lowered.as_text()
    assert "4 of 8 devices are used" in caplog.text


def test_programs_are_lowered_for_the_devices_of_their_mesh():
    """Pallas looks there for the kind of GPU."""
    mesh, seen = device_mesh(jax.devices()[:2]), []

    def program(x):
        seen.append(jax.sharding.get_abstract_mesh())
        return x

    programs.lower(jax.jit(program), mesh, jax.ShapeDtypeStruct((2,), "float32"))
    assert seen == [mesh.abstract_mesh]


def test_the_report_says_what_fits_and_how():
    config = load_config_file(TrainingConfig, "base_256")
    small, middle, large = (made_up_plan(config, activations=x) for x in (10.0, 35.0, 100.0))
    assert [fits(plan, H100) for plan in (small, middle, large)] == [True, True, False]
    texts = ["\n".join(plan_lines(plan, H100)) for plan in (small, middle, large)]
    assert "44.00 GiB of 79.1: fits\n" in texts[0]
    assert "fits, with XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 in the environment" in texts[1]
    assert "does not fit (72.8 GiB can be used)" in texts[2]
    assert "collectives: none" in texts[0] and "not a measurement" in texts[0]


def test_the_report_ends_with_the_option_to_add():
    config = load_config_file(TrainingConfig, "base_256")

    def plan(changes):
        return made_up_plan(dataclasses.replace(config, **changes), activations=100.0)

    lines = trial_lines(find_fitting(config, plan({}), H100, plan), H100)
    assert lines[-1].startswith("add --config.accumulation_steps=4")


@pytest.mark.skipif(HAS_COMPILER, reason="the CUDA wheels are installed")
def test_without_the_compiler_the_command_says_what_to_install(refused):
    message = refused("rf_jax.plan", "--config", "base_256", "--devices", 8)
    assert "pip install 'jax[cuda12]==" in message


def test_impossible_numbers_of_devices_are_refused(command):
    status, _, err = command("rf_jax.plan", "--config", "tiny", "--devices", 0)
    assert status == 2 and "--devices: expected 1 to 1024, found 0" in err


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "expected either --config"),
        (["--config", "tiny", "--variant", "v2_200m"], "expected either --config"),
        (["--variant", "v2_200m"], "add --triangles or --render"),
        (["--variant", "v2_200m", "--triangles", 0], "--triangles: expected 1 to"),
        (["--variant", "testing", "--triangles", 5, "--render", "a"], "found both"),
        (["--variant", "testing", "--triangles", 5, "--config.seed=1"], "there is no --config"),
    ],
)
def test_options_that_contradict_each_other_are_refused(command, options, message):
    status, _, err = command("rf_jax.plan", *options)
    assert status == 2 and message in err


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs the CUDA wheels")
@pytest.mark.parametrize("variant", ["testing", "testing_v2"])
def test_a_variant_is_planned_for_random_triangles(variant):
    run = [sys.executable, "-m", "rf_jax.plan", "--variant", variant, "--triangles", "300"]
    run += ["--resolution", "64", "--devices", "2", "--precision", "fp16"]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "view-independent stage" in out and "a view of 64x64 on each device" in out


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs the CUDA wheels")
def test_a_training_step_and_a_view_are_planned():
    """In a process of its own, which must not look for a GPU by itself."""
    run = [sys.executable, "-m", "rf_jax.plan", "--config", "debug", "--devices", "2"]
    step = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "training step on 2 x NVIDIA H100" in step and "all-reduce: each device" in step
    view = [*run, "--gpu", "rtx4090", "--render", "cornell_box", "--resolution", "64"]
    out = subprocess.run(view, capture_output=True, text=True, check=True).stdout
    assert "view-independent stage on 1 x" in out and "a view of 64x64 on each device on 2 x" in out
