"""Kills a training run at random moments and continues it, until it is done.

python tests/training/kill_runs.py --kills 20

compares parameters and losses with those of a run that nobody disturbed, bit for bit.
"""

import argparse
import random
import signal
import tempfile
from pathlib import Path

import numpy as np
from processes import finish, load_latest, logged_losses, start_run, wait_for_step
from scenes import write_scenes

STEPS = 120


def kill_and_compare(folder: Path, kills: int, seed: int, workers: int) -> list[int]:
    """Returns the steps at which the run was killed; raises AssertionError when it differs."""
    data = write_scenes(folder / "data", 10)
    options = [
        f"--config.total_steps={STEPS}",
        "--config.checkpoint_every_steps=3",
        "--config.ema_decay=0.9",
        f"--config.data.workers={workers}",
        "--config.validate_every_steps=40",
        f"--config.data.validation_path={data}",
    ]
    finish(start_run(data, folder / "whole", *options))
    rng, at = random.Random(seed), []
    workdir = folder / "killed"
    for i in range(kills):
        run = start_run(data, workdir, *options)
        target = rng.uniform(i, i + 1) / kills * STEPS
        at.append(wait_for_step(run, target))
        run.send_signal(signal.SIGKILL)
        _, errors = run.communicate()
        assert at[-1] >= target, errors
        load_latest(workdir)
    finish(start_run(data, workdir, *options))
    found, expected = logged_losses(workdir), logged_losses(folder / "whole")
    assert found == expected, sorted(found.items() ^ expected.items())
    a, b = (load_latest(folder / name) for name in ("whole", "killed"))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    return at


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
