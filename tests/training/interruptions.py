"""Interrupts commands at random moments, runs them again, and compares what they write.

python tests/training/interruptions.py --times 5

interrupts making data, training, evaluating and both conversions so many times each, by SIGINT (as
Ctrl-C in a terminal), SIGTERM and SIGKILL in turns. Afterwards their files must be those of a run
that nobody disturbed.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from processes import load_latest, logged_losses
from scenes import write_scenes
from settings import ROOT

from rf_jax.weights.checkpoint import load_checkpoint
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS

ROOMS = ROOT / "tests" / "data" / "rooms"

COMMANDS = {
    "data": (
        "-m rf_jax.datagen --config data_tiny --num_workers 2 --config.num_scenes=4 "
        "--config.render.variant=scalar_rgb --config.render.resolution=16 --config.render.spp=256 "
        "--config.render.denoise=False --output_dir"
    ),
    "train": (
        f"{ROOT}/train.py --config {ROOT}/tests/training/settings.py --config.data.path=scenes "
        "--config.data.workers=1 --config.checkpoint_every_steps=3 --config.total_steps=60 "
        "--config.ema_decay=0.9 --config.validate_every_steps=20 "
        "--config.data.validation_path=scenes --workdir"
    ),
    "evaluate": f"-m rf_jax.evaluate --checkpoint {BUNDLED_WEIGHTS} --data {ROOMS} --output_dir",
    "convert": f"{ROOT}/convert_weights.py {BUNDLED_WEIGHTS}",
    "export": f"{ROOT}/convert_weights.py --to_torch {BUNDLED_WEIGHTS}",
}
"""The commands; the folder that each writes to is added at the end.

They run in a folder with `scenes` to train on.
"""


def read_data(folder: Path) -> dict[str, Any]:
    """The index, and all datasets of all scenes."""
    found: dict[str, Any] = {"index": (folder / "index.jsonl").read_text()}
    for path in folder.glob("scene_*.h5"):
        with h5py.File(path) as file:
            found |= {f"{path.name}/{name}": dataset[:] for name, dataset in file.items()}
    return found


def read_run(folder: Path) -> dict[str, Any]:
    """The whole last state, and the loss of every step."""
    return load_latest(folder) | {"losses": logged_losses(folder)}


def read_weights(folder: Path) -> dict[str, Any]:
    variables, config = load_checkpoint(folder)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves} | {"config": config}


def read_bytes(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


READERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "data": read_data,
    "train": read_run,
    "evaluate": read_bytes,
    "convert": read_weights,
    "export": read_bytes,
}
"""What must be the same in the end; some files differ in their bytes, such as by a date."""


def start(name: str, folder: Path) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "HF_HUB_OFFLINE": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *shlex.split(COMMANDS[name]), str(folder)],
        cwd=folder.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(name: str, folder: Path) -> float:
    """Runs a command to its end, and returns the seconds that it took."""
    since = time.perf_counter()
    process = start(name, folder)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return time.perf_counter() - since


def interrupt(name: str, folder: Path, seconds: float, number: signal.Signals) -> bool:
    """Sends a signal after some seconds; returns whether the command was still running."""
    process = start(name, folder)
    try:
        _, errors = process.communicate(timeout=seconds)
        assert process.returncode == 0, errors
        return False
    except subprocess.TimeoutExpired:
        if number == signal.SIGINT:  # a terminal sends it to all processes of a session
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    _, errors = process.communicate(timeout=400)
    assert "Traceback" not in errors, errors
    return True


def compare(name: str, whole: Path, disturbed: Path) -> None:
    """Raises AssertionError where two folders differ, or where temporary files are left."""
    expected, found = READERS[name](whole), READERS[name](disturbed)
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    for key in expected:
        np.testing.assert_equal(found[key], expected[key], err_msg=key)
    left = [path for path in disturbed.parent.rglob(".*") if path.name != ".lock"]
    assert not left, left


def interrupt_and_compare(name: str, folder: Path, times: int, rng: random.Random) -> list[str]:
    """Returns what the interruptions were; raises AssertionError where the files differ."""
    write_scenes(folder / "scenes", 10)
    whole, disturbed = folder / f"{name}_whole", folder / f"{name}_disturbed"
    seconds = 0.7 * finish(name, whole)  # from now on without compiling
    signals = rng.sample((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), 3)
    happened: list[str] = []
    while len(happened) < times:
        after, number = rng.uniform(0.1, 0.9) * seconds, signals[len(happened) % 3]
        if interrupt(name, disturbed, after, number):
            happened.append(f"{number.name} at {after:.1f} s")
        else:  # it had ended; begin anew, and interrupt earlier
            compare(name, whole, disturbed)
            shutil.rmtree(disturbed)
            seconds *= 0.8
    finish(name, disturbed)
    compare(name, whole, disturbed)
    return happened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.commands:
            happened = interrupt_and_compare(name, Path(folder), args.times, rng)
            print(f"{name}: {', '.join(happened)}: the same files", flush=True)


if __name__ == "__main__":
    main()
