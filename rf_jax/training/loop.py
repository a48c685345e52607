"""The training loop: `train_and_evaluate` joins everything in this folder."""

import collections
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rf_jax.checksums import arrays_digest, names_digest
from rf_jax.config_files import parse_config
from rf_jax.errors import InputError, prefix_errors
from rf_jax.images.lpips import Perceptual
from rf_jax.models import RenderFormer, init_variables
from rf_jax.models.flops import measure_product_rate
from rf_jax.structs import Batch
from rf_jax.training.agreement import HopelessRun, agree, attempt, check_same, together
from rf_jax.training.checkpoints import TrainCheckpoints
from rf_jax.training.config import TrainingConfig, check_continues, common_values
from rf_jax.training.data import BatchStream, SceneLoader
from rf_jax.training.losses import Distance
from rf_jax.training.optim import make_optimizer, make_schedule
from rf_jax.training.scene_files import find_training_files, padded_lengths
from rf_jax.training.sharding import (
    batch_sharding,
    make_mesh,
    replicated,
    state_shardings,
    to_devices,
    usable_devices,
)
from rf_jax.training.steps import (
    COMPUTE_TYPES,
    TrainState,
    create_train_state,
    init_rng,
    make_eval_step,
    make_model,
    make_train_step,
)
from rf_jax.training.stop_signal import StopSignal
from rf_jax.training.watcher import Watcher
from rf_jax.training.workdir import claim_workdir, describe_run
from rf_jax.weights.warm_start import warm_start, warm_start_leniently

STEPS_IN_FLIGHT = 2
"""How many steps late metrics are read, so that the device never waits for the host."""


def train_and_evaluate(
    config: TrainingConfig | ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    devices: list[jax.Device] | None = None,
) -> TrainState:
    """Trains until `total_steps`, SIGTERM or Ctrl-C; continues the run in `workdir`, if any.

    Args:
      config: the run, as a `TrainingConfig` or its keys and values.
      workdir: folder for checkpoints, event files and configurations; made if it is missing.
      devices: the devices to train on; None takes all.

    Returns:
      the last state, on the devices.

    Raises:
      InputError: the configuration, data, weights or workdir are bad, or not the same for all
        processes; there are too many unusable files or too many steps in a row without a finite
        gradient; a checkpoint cannot be written; or another process ended. All processes raise it.
      KeyboardInterrupt: the user pressed Ctrl-C; the state was saved, unless it was pressed twice.
    """
    if not isinstance(config, TrainingConfig):
        config = parse_config(TrainingConfig, config)
    with together(), contextlib.ExitStack() as stack:
        run = Run(config, Path(workdir), devices, stack)
        interrupted = run.train()
    if interrupted:
        raise KeyboardInterrupt
    return run.state


class Run:
    """A run: its mesh, compiled steps, state, data and files."""

    def __init__(
        self,
        config: TrainingConfig,
        workdir: Path,
        devices: list[jax.Device] | None,
        stack: contextlib.ExitStack,
    ):
        """Checks everything that can be checked, then opens files and starts reading.

        Args:
          config, workdir, devices: the arguments of `train_and_evaluate`.
          stack: closes everything that is opened here.
        """
        self.config, self.workdir = config, workdir
        check_same(lambda: common_values(config), "start all with the same options and files")
        scenes = config.batch_size // config.accumulation_steps
        devices = usable_devices(config.fsdp, scenes, devices or jax.devices())
        self.mesh = make_mesh(config.fsdp, scenes, devices)
        attempt(self._find_files)
        attempt(self._load_perceptual)
        self._check_same_inputs()
        # This is a collective operation, so it comes when all processes have the same weights.
        self._perceptual_params = jax.device_put(self._perceptual_params, replicated(self.mesh))
        claim_workdir(workdir, stack)
        self.checkpoints = stack.enter_context(TrainCheckpoints(workdir, config))
        check_same(lambda: {"the last checkpoint": self.checkpoints.latest_step}, "start again")
        if self.checkpoints.latest_step is not None:
            attempt(check_continues, config, workdir)
        model = make_model(config, self.mesh)
        self.steps = compile_steps(config, self.mesh, model, self._distance)
        self.state = self._first_state()
        self.step = int(self.state.step)
        describe_run(config, workdir)
        self.watcher = stack.enter_context(contextlib.closing(self._watcher()))
        loader = SceneLoader(self.files, config, training=True, lengths=self.lengths)
        self.stream = self._stream(loader, self.step, config.total_steps)
        stack.enter_context(contextlib.closing(self.stream))

    def _find_files(self) -> None:
        self.files = tuple(find_training_files(self.config, "train"))
        self.lengths = padded_lengths(self.config, "train")
        most = self.config.validation_scenes
        self.validation_files = tuple(find_training_files(self.config, "val")[:most])
        self.validation_lengths = padded_lengths(self.config, "val")[:most]
        if not self.validation_files:
            logging.warning("no validation: %s has no scenes of a val split", self.config.data.path)

    def _load_perceptual(self) -> None:
        """Reads the weights of LPIPS, if the loss has such a term."""
        self._distance = self._perceptual_params = None
        if self.config.lpips_weight:
            dtype = jnp.dtype(COMPUTE_TYPES[self.config.precision]).name
            perceptual = Perceptual(self.config.lpips_weights, dtype)
            self._distance = perceptual.distance
            self._perceptual_params = perceptual.params

    def _check_same_inputs(self) -> None:
        """Checks that all processes train on the same files with the same LPIPS."""

        def facts() -> dict[str, str]:
            return {
                "training files": names_digest(self.files),
                "validation files": names_digest(self.validation_files),
                "weights of LPIPS": arrays_digest(self._perceptual_params),
            }

        check_same(facts, "copy them to all hosts, or use a shared file system")

    def _watcher(self) -> Watcher:
        config = self.config
        tokens = config.data.max_triangles + config.model.num_register_tokens
        rate = measure_product_rate(config.model, tokens, COMPUTE_TYPES[config.precision])
        return Watcher(self.workdir, config, self.step, self.mesh.size * rate)

    def _stream(self, loader: SceneLoader, start: int, stop: int) -> BatchStream:
        shard = jax.process_index(), jax.process_count()
        return BatchStream(loader, self.config.batch_size, start, stop, shard)

    def train(self) -> bool:
        """Runs the loop and saves the last state; returns whether the user pressed Ctrl-C."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.watcher.started(self.step, parameters, self.mesh.size)
        with StopSignal() as stop:
            try:
                with together():
                    self._run_steps(stop)
            except HopelessRun:
                raise
            except InputError:
                with contextlib.suppress(InputError):
                    self._save_last()
                raise
            self._save_last()
        self.watcher.ended(self.step)
        return stop.interrupted

    def _run_steps(self, stop: StopSignal) -> None:
        """Trains until the last step, or until the run is asked to stop."""
        pending: collections.deque = collections.deque()
        while self.step < self.config.total_steps:
            start, asked = time.perf_counter(), stop.asked
            batch, stopping = attempt(self._next_batch, asked, flag=asked)
            if stopping:
                break
            self.watcher.advance(time.perf_counter() - start)
            rows = to_devices(batch, self.mesh)
            self.state, metrics = self.steps.train(self.state, rows, self._perceptual_params)
            self.step += 1
            pending.append((self.step, metrics, batch.file))
            # Steps before a checkpoint are reported before it is saved, because a resumed run does
            # not report them again.
            self._report_all_but(0 if self._saves_at(self.step) else STEPS_IN_FLIGHT, pending)
            self._at_intervals(self.step, rows)
        self._report_all_but(0, pending)

    def _next_batch(self, asked: bool) -> Batch | None:
        """The next batch, unless the run is asked to stop; raises the errors of old checkpoints."""
        self.checkpoints.check()
        return None if asked else next(self.stream)

    def _save(self, metrics: dict[str, float] | None = None) -> None:
        """Saves the state, once all processes have written the checkpoint before it."""
        self._wait_for_checkpoints()
        attempt(self.checkpoints.save, self.state, metrics)

    def _wait_for_checkpoints(self) -> None:
        """Waits until all processes have written; the error of one is raised by all.

        A process cannot just wait for its own writes, because these wait for those of the others.
        """
        while attempt(self.checkpoints.check, flag=self.checkpoints.writing)[1]:
            time.sleep(0.05)
        attempt(self.checkpoints.wait)

    def _save_last(self) -> None:
        if self.step > (self.checkpoints.latest_step or 0):
            self._save()
        self._wait_for_checkpoints()

    def validate(self) -> tuple[dict[str, float], Any]:
        """Computes means over the validation scenes.

        Returns:
          the metrics by name, and images of the first batch, predicted and true [B, H, H, 3].
        """
        lengths = self.validation_lengths
        loader = SceneLoader(self.validation_files, self.config, training=False, lengths=lengths)
        batches = -(-len(self.validation_files) // self.config.batch_size)
        totals: collections.Counter[str] = collections.Counter()
        images = None
        with contextlib.closing(self._stream(loader, 0, batches)) as stream:
            for _ in range(batches):
                batch, _ = attempt(next, stream)
                sums, pair = self.steps.evaluate(
                    self.state.variables, to_devices(batch, self.mesh), self._perceptual_params
                )
                totals.update({name: float(value) for name, value in sums.items()})
                images = images or jax.tree.map(np.asarray, pair)
        scenes = totals.pop("scenes")
        return {name: total / scenes for name, total in totals.items()}, images

    def _first_state(self) -> TrainState:
        """The state to continue from: a checkpoint, else `init_from`, else fresh variables."""
        if self.checkpoints.latest_step is not None:
            attempt(self.checkpoints.verify)
            return self.checkpoints.restore(self.steps.abstract_state)
        if self.config.init_from is None:
            return self.steps.init()
        variables, _ = attempt(self._warm_start)
        check_same(
            lambda: {"config.init_from": arrays_digest(variables)},
            "copy the same weights to all hosts",
        )
        return self.steps.create(variables)

    def _warm_start(self) -> dict[str, Any]:
        config = self.config
        fresh = functools.partial(init_variables, config.model, init_rng(config.seed))
        with prefix_errors("config.init_from"):
            if config.init_lenient:
                return warm_start_leniently(config.init_from, config.model, fresh)
            return warm_start(config.init_from, config.model)

    def _validates_at(self, step: int) -> bool:
        due = step % self.config.validate_every_steps == 0 or step == self.config.total_steps
        return due and bool(self.validation_files)

    def _saves_at(self, step: int) -> bool:
        return step % self.config.checkpoint_every_steps == 0 or self._validates_at(step)

    def _at_intervals(self, step: int, rows: Batch) -> None:
        """Validates, writes images and saves, where these are due after a step."""
        metrics = None
        if self._validates_at(step):
            agree()
            metrics, images = self.validate()
            self.watcher.validation(step, metrics)
            self.watcher.images("validation", step, *images)
        if step % self.config.image_every_steps == 0:
            agree()
            _, images = self.steps.evaluate(self.state.variables, rows, self._perceptual_params)
            self.watcher.images("train", step, *jax.tree.map(np.asarray, images))
        if self._saves_at(step):
            self._save(metrics)

    def _report_all_but(self, count: int, pending: collections.deque) -> None:
        """Reports the oldest pending steps until only `count` are left."""
        while len(pending) > count:
            self._report(*pending.popleft())

    def _report(self, step: int, metrics: dict[str, jax.Array], files: np.ndarray) -> None:
        """Reads the metrics of a step, and ends the run if it cannot succeed any more."""
        config = self.config
        logged = step % config.log_every_steps == 0 or step == config.total_steps
        bad = int(metrics["nonfinite_in_a_row"])
        if bad:
            names = ", ".join(str(self.files[i]) for i in files)
            logging.warning("step %d skipped: its gradient is not finite (%s)", step, names)
        if bad > config.max_nonfinite_in_a_row:
            raise HopelessRun(
                f"step {step}: {bad} steps in a row had no finite gradient; the last batch: {names}"
                "; check these files, or lower config.learning_rate"
            )
        if logged:
            values = {name: float(value) for name, value in metrics.items()}
            self._check_skipped(step, int(values["skipped_scenes"]))
            self.watcher.training(step, values)

    def _check_skipped(self, step: int, skipped: int) -> None:
        limit = self.config.data.max_skipped_fraction
        read = step * self.config.batch_size + skipped
        if skipped > limit * read:
            raise HopelessRun(
                f"{self.config.data.path}: {skipped} of {read} files read were unusable, more than "
                f"config.data.max_skipped_fraction={limit}; the warnings above name them"
            )


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled functions of a run.

    Attributes:
      init: makes the first state from fresh variables; takes nothing.
      create: makes the first state from given variables.
      train: the step of `make_train_step`; the state that it is given is donated.
      evaluate: the step of `make_eval_step`.
      abstract_state: shapes, types and shardings of the state.
    """

    init: Callable
    create: Callable
    train: Callable
    evaluate: Callable
    abstract_state: TrainState


def compile_steps(
    config: TrainingConfig, mesh: Mesh, model: RenderFormer, perceptual: Distance | None
) -> Steps:
    """Prepares the functions of a run for a mesh; each compiles when it is first called.

    States are placed by `state_shardings`, and batches are split by rows.
    """
    tx = make_optimizer(config)
    create = functools.partial(create_train_state, config, tx)

    def init():
        return create(init_variables(config.model, init_rng(config.seed)))

    abstract = jax.eval_shape(init)
    shardings = state_shardings(mesh, abstract)
    whole, rows = replicated(mesh), batch_sharding(mesh)
    return Steps(
        init=jax.jit(init, out_shardings=shardings),
        create=jax.jit(create, out_shardings=shardings),
        train=jax.jit(
            make_train_step(config, model, tx, make_schedule(config), perceptual),
            in_shardings=(shardings, rows, whole),
            out_shardings=(shardings, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            make_eval_step(config, model, perceptual),
            in_shardings=(shardings.variables, rows, whole),
            out_shardings=whole,
        ),
        abstract_state=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
        ),
    )
