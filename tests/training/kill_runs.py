"""Kills a training run at random moments and continues it, until it is done.

python tests/training/kill_runs.py --kills 20

compares parameters and losses with those of a run that nobody disturbed: bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from scenes import write_scenes
from tensorboardX.proto import event_pb2

from rf_jax.weights.checkpoint import load_checkpoint

STEPS = 120
RUN = (
    "import sys; from settings import small_config, train;"
    "changes = dict(text.split('=') for text in sys.argv[3:]);"
    "changes = {k: eval(v) for k, v in changes.items()};"
    "train(small_config(sys.argv[1], **changes), sys.argv[2])"
)
"""A run in a process of its own: data, workdir, changes of the configuration."""


def start_run(data: Path, workdir: Path, *changes: str) -> subprocess.Popen:
    """Its standard output has a line a step."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(data), str(workdir), *changes],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def step_of(line: str) -> int:
    return int(line.split(":")[0].removeprefix("step "))


def losses(workdir: Path) -> dict[int, float]:
    """Step -> loss of all event files; steps that were run twice must agree."""
    found: dict[int, float] = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, start = path.read_bytes(), 0
        while start + 12 <= len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            record = data[start + 12 : start + 12 + length]
            start += length + 16
            if start > len(data):
                break  # the last record of a killed process
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == "train/loss":
                    assert found.setdefault(event.step, value.simple_value) == value.simple_value
    return found


def kill_and_compare(folder: Path, kills: int, seed: int, workers: int) -> list[int]:
    """Returns the steps at which the run was killed; raises AssertionError when it differs."""
    data = write_scenes(folder / "data", 10)
    options = (
        f"total_steps={STEPS}", "checkpoint_every_steps=3", "ema_decay=0.9",
        f"data_workers={workers}",
        "validate_every_steps=40", f"data_validation_path={str(data)!r}",
    )  # fmt: skip
    whole = start_run(data, folder / "whole", *options)
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    rng, at = random.Random(seed), []
    workdir = folder / "killed"
    for i in range(kills):
        run = start_run(data, workdir, *options)
        target = rng.uniform(i, i + 1) / kills * STEPS
        reached = 0
        for line in run.stdout:
            if line.startswith("step "):
                reached = step_of(line)
            if reached >= target:
                break
        run.send_signal(signal.SIGKILL)
        _, errors = run.communicate()
        assert reached >= target, errors
        at.append(reached)
        load_latest(workdir)
    run = start_run(data, workdir, *options)
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    found, expected = losses(workdir), losses(folder / "whole")
    assert found == expected, sorted(found.items() ^ expected.items())
    a, b = (load_latest(folder / name) for name in ("whole", "killed"))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    return at


def load_latest(workdir: Path) -> dict[str, np.ndarray]:
    """All leaves of the last checkpoint, if there is one."""

    steps = workdir / "checkpoints"
    numbers = [int(p.name) for p in steps.iterdir() if p.name.isdigit()] if steps.exists() else []
    if not numbers:
        return {}
    load_checkpoint(workdir)
    leaves = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("variables", "training"):
            tree = checkpointer.restore(steps / str(max(numbers)) / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                leaves[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return leaves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at = kill_and_compare(Path(folder), args.kills, args.seed, workers=1)
    print(f"killed {args.kills} times, after steps {at}: the same parameters and losses")


if __name__ == "__main__":
    main()
