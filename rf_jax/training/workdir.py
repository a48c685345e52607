"""The folder of a run: who writes to it, and what it says about the run."""

import contextlib
import secrets
import time
from pathlib import Path

import jax

from rf_jax.errors import InputError
from rf_jax.files import atomic_path, locked, remove_abandoned, report_unwritable
from rf_jax.training.agreement import attempt, gather
from rf_jax.training.checkpoints import save_network_config
from rf_jax.training.config import TrainingConfig, save_config
from rf_jax.training.watcher import git_revision
from rf_jax.weights.checkpoint import VARIABLES_NAME
from rf_jax.weights.pretrained import WEIGHTS_NAME

SHARED_SECONDS = 30
"""How long a new file may need to appear on the other hosts."""


def claim_workdir(workdir: Path, stack: contextlib.ExitStack) -> None:
    """Reserves a folder for this run until `stack` ends.

    Raises:
      InputError: it is the folder of a converted network, another run writes to it, or not all
        processes see it.
    """

    def lock() -> None:
        if (workdir / VARIABLES_NAME).exists() or (workdir / WEIGHTS_NAME).exists():
            raise InputError(f"{workdir}: holds a network that was converted; choose another")
        if jax.process_index() == 0:
            stack.enter_context(locked(workdir))
            remove_abandoned(workdir)

    attempt(lock)
    if jax.process_count() > 1:
        _check_shared(workdir)


def _check_shared(workdir: Path) -> None:
    """Checks that all processes see a file that process 0 makes."""
    name = f".seen-by-all-{secrets.token_hex(4)}"

    def make() -> None:
        if jax.process_index() == 0:
            with report_unwritable(workdir):
                (workdir / name).touch()

    attempt(make)
    try:
        attempt(_wait_for, workdir / gather(name)[0])
    finally:
        (workdir / name).unlink(missing_ok=True)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise InputError(
                f"{path.parent}: expected a folder that all hosts share, but a file that process 0 "
                "wrote there is not here; choose a workdir on a shared file system"
            )
        time.sleep(0.1)


def describe_run(config: TrainingConfig, workdir: Path) -> None:
    """Writes configurations and revision of the code, once the state fits to them."""

    def write() -> None:
        if jax.process_index() == 0:
            save_config(config, workdir)
            save_network_config(config, workdir)
            with atomic_path(workdir / "revision.txt") as path:
                path.write_text(git_revision() + "\n")

    attempt(write)
