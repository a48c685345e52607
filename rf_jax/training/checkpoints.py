"""Checkpoints of a run: what a renderer needs, and what else a resumed run needs.

WORKDIR/config.json                    the network's configuration
WORKDIR/training_config.json           the run's configuration
WORKDIR/checkpoints/STEP/variables     constants and parameters, averaged ones if the run has them
WORKDIR/checkpoints/STEP/training      the rest of the `TrainState`
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rf_jax.checksums import verify_checksums, write_checksums
from rf_jax.errors import InputError
from rf_jax.files import atomic_path, utf8_path
from rf_jax.trained_on import TrainedOn
from rf_jax.training.agreement import HopelessRun, can_save_after
from rf_jax.training.config import TrainingConfig
from rf_jax.training.steps import TrainState
from rf_jax.weights.checkpoint import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    VARIABLES_NAME,
    reason_in_one_line,
)

TRAINING_NAME = "training"
BEST_METRIC = "psnr"
"""The validation metric of which the checkpoint with the largest value is kept."""

WRITE_SECONDS = 600
"""How long a process waits for the others' parts of a checkpoint, before it gives up."""


class TrainCheckpoints:
    """The checkpoints of a run, written in the background.

    Keeps the last few, and the one with the best validation PSNR.
    """

    def __init__(self, workdir: Path, config: TrainingConfig):
        """Opens or makes WORKDIR/checkpoints."""
        self._workdir = workdir
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(config.keep_last),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[BEST_METRIC],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            utf8_path(workdir / CHECKPOINTS_NAME),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(timeout_secs=WRITE_SECONDS),
            ),
            handler_registry=_handlers(),
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the last whole checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Copies the state and begins to write it.

        Args:
          state: the state after `state.step` steps.
          metrics: validation metrics, if the run was validated at this step.

        Raises:
          HopelessRun: this checkpoint or the one before it could not be written.
        """
        step = int(state.step)
        items = ocp.args.Composite(
            **{
                VARIABLES_NAME: ocp.args.StandardSave(state.variables),
                TRAINING_NAME: ocp.args.StandardSave(_rest(state)),
            }
        )
        with self._reporting():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._manager.is_saving_in_progress()

    def check(self) -> None:
        """Raises the errors of `save` that have happened by now, without waiting."""
        with self._reporting():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until all checkpoints are written; raises the errors of `save`."""
        with self._reporting():
            self._manager.wait_until_finished()

    def verify(self) -> None:
        """Checks the last checkpoint against its checksums.

        Raises:
          InputError: it is damaged.
        """
        with self._resuming() as folder:
            for name in (VARIABLES_NAME, TRAINING_NAME):
                verify_checksums(folder / name)

    def restore(self, state: Any) -> TrainState:
        """Reads the last state, of which `verify` found no damage.

        Args:
          state: a `TrainState` of `jax.ShapeDtypeStruct` with the shardings to restore to.

        Raises:
          InputError: the checkpoint is damaged or that of another network.
        """
        step = self.latest_step
        items = ocp.args.Composite(
            **{
                VARIABLES_NAME: ocp.args.StandardRestore(state.variables),
                TRAINING_NAME: ocp.args.StandardRestore(_rest(state)),
            }
        )
        with self._resuming():
            restored = self._manager.restore(step, args=items)
        variables, rest = restored[VARIABLES_NAME], restored[TRAINING_NAME]
        params = rest.pop("params", variables["params"])
        ema = None if state.ema is None else variables["params"]
        return TrainState(params=params, ema=ema, constants=variables["constants"], **rest)

    def __enter__(self) -> "TrainCheckpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Ends the writing; errors that nobody waited for do not hide the one that ends the run.

        Where several processes end without a last checkpoint, what they write may wait for each
        other, so nobody waits for it.
        """
        if jax.process_count() == 1 or can_save_after(error):
            with contextlib.suppress(Exception):
                self._manager.close()

    @contextlib.contextmanager
    def _resuming(self) -> Iterator[Path]:
        """Yields the folder of the last checkpoint; errors inside become an InputError."""
        folder = self._workdir / CHECKPOINTS_NAME / str(self.latest_step)
        try:
            yield folder
        except Exception as error:  # Orbax, TensorStore and the file system raise many types
            raise InputError(
                f"{folder}: cannot be resumed from: {reason_in_one_line(error)}; remove that "
                "folder to continue from the one before it"
            ) from error

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns the errors of failed writes, which have many types, into an InputError."""
        try:
            yield
        except Exception as error:
            raise HopelessRun(
                f"{self._workdir / CHECKPOINTS_NAME}: a checkpoint cannot be written "
                f"({reason_in_one_line(error)}); free disk space and start again: the run "
                "continues from the last whole one"
            ) from error


class _Handler(ocp.StandardCheckpointHandler):
    """Writes checksums beside the files of an item, just before the checkpoint appears."""

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        write_checksums(Path(directory))


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for name in (VARIABLES_NAME, TRAINING_NAME):
        handler = _Handler()
        registry.add(name, ocp.args.StandardSave, handler)
        registry.add(name, ocp.args.StandardRestore, handler)
    return registry


def save_network_config(config: TrainingConfig, workdir: Path) -> None:
    """Writes WORKDIR/config.json."""
    with atomic_path(workdir / CONFIG_NAME) as path:
        path.write_text(json.dumps(_network_values(config), indent=2) + "\n")


def _network_values(config: TrainingConfig) -> dict[str, Any]:
    """The `config.json` of the network, with what it is trained on."""
    data = TrainedOn(config.data.resolution, config.data.max_triangles)
    return config.model.to_dict() | data.to_config()


def _rest(state: Any) -> dict[str, Any]:
    """The parts of a state that are not in `state.variables`."""
    rest = {
        name: getattr(state, name)
        for name in ("step", "opt_state", "nonfinite", "nonfinite_in_a_row", "skipped_scenes")
    }
    return rest if state.ema is None else rest | {"params": state.params}
