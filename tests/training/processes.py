"""Training runs in processes of their own, and what a run wrote into its workdir."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from settings import ROOT
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader


def start_run(
    data: Path,
    workdir: Path,
    *options: str,
    config: str = "tests/training/settings.py",
    **variables: str,
) -> subprocess.Popen:
    """`python train.py` on one CPU device; its standard output has one line per logged step."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    command = [sys.executable, "train.py", "--config", config, "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, f"--config.data.path={data}", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slurm_variables(count: int, port: int) -> list[dict[str, str]]:
    """What `srun` would set for each of the tasks of a node, with a port for them to meet at."""
    common = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "JAX_COORDINATOR_PORT": str(port),
    }
    return [common | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


def wait_for_step(run: subprocess.Popen, step: float) -> int:
    """Reads the output of a run until it reports that step, or ends; returns the last one."""
    reached = 0
    for line in run.stdout:
        if line.startswith("step "):
            reached = int(line.split()[1])
        if reached >= step:
            break
    return reached


def finish(*runs: subprocess.Popen, status: int = 0) -> None:
    """Waits for the runs to end with that exit status."""
    for run in runs:
        _, errors = run.communicate(timeout=400)
        assert run.returncode == status, errors


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def logged_values(workdir: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of all that a run logged; steps that were run twice come twice."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def logged_losses(workdir: Path) -> dict[int, float]:
    """Step -> loss; steps that were run twice must agree."""
    losses: dict[int, float] = {}
    for tag, step, value in logged_values(workdir):
        if tag == "train/loss":
            assert losses.setdefault(step, value) == value, step
    return losses


def load_latest(workdir: Path) -> dict[str, np.ndarray]:
    """All leaves of the last checkpoint; {} when there is none."""
    steps = workdir / "checkpoints"
    numbers = [int(p.name) for p in steps.iterdir() if p.name.isdigit()] if steps.exists() else []
    if not numbers:
        return {}
    leaves = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("variables", "training"):
            path = steps / str(max(numbers)) / item
            metadata = dict(checkpointer.metadata(path).item_metadata)
            # NumPy targets; by default arrays go to the devices that they were saved from.
            target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metadata)
            tree = checkpointer.restore(path, target)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                leaves[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return leaves
