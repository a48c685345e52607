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

from rf_jax.config_files import parse_config
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path, locked, remove_abandoned
from rf_jax.images.lpips import Perceptual
from rf_jax.models import RenderFormer, init_variables
from rf_jax.models.flops import measure_product_rate
from rf_jax.structs import Batch
from rf_jax.training.checkpoints import TrainCheckpoints, save_network_config
from rf_jax.training.config import TrainingConfig, check_continues, save_config
from rf_jax.training.data import BatchStream, SceneLoader, find_training_files
from rf_jax.training.losses import Distance
from rf_jax.training.optim import make_optimizer, make_schedule
from rf_jax.training.sharding import (
    batch_sharding,
    make_mesh,
    replicated,
    state_shardings,
    to_devices,
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
from rf_jax.training.watcher import Watcher, git_revision
from rf_jax.weights.checkpoint import VARIABLES_NAME
from rf_jax.weights.pretrained import WEIGHTS_NAME
from rf_jax.weights.warm_start import warm_start, warm_start_leniently

STEPS_IN_FLIGHT = 2
"""How many steps late metrics are read, so that the device never waits for the host."""


class HopelessRun(InputError):
    """Ends a run whose state is not worth saving: its last steps trained nothing."""


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
      InputError: the configuration, data, weights or workdir are bad, there are too many unusable
        files or too many steps in a row without a finite gradient, or a checkpoint cannot be
        written.
      KeyboardInterrupt: the user pressed Ctrl-C; the state was saved, unless it was pressed twice.
    """
    if not isinstance(config, TrainingConfig):
        config = parse_config(TrainingConfig, config)
    with contextlib.ExitStack() as stack:
        return Run(config, Path(workdir), devices, stack).train()


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
        self.mesh = make_mesh(config.fsdp, config.batch_size // config.accumulation_steps, devices)
        self._find_files()
        self._load_perceptual()
        self._claim_workdir(stack)
        self.checkpoints = stack.enter_context(
            contextlib.closing(TrainCheckpoints(workdir, config))
        )
        if self.checkpoints.latest_step is not None:
            check_continues(config, workdir)
        model = make_model(config, self.mesh)
        self.steps = compile_steps(config, self.mesh, model, self._distance)
        self.state = self._first_state()
        self.step = int(self.state.step)
        self._describe()
        self.watcher = stack.enter_context(contextlib.closing(self._watcher()))
        loader = SceneLoader(self.files, config, training=True)
        self.stream = self._stream(loader, self.step, config.total_steps)
        stack.enter_context(contextlib.closing(self.stream))

    def _find_files(self) -> None:
        self.files = tuple(find_training_files(self.config, "train"))
        found = find_training_files(self.config, "val")
        self.validation_files = tuple(found[: self.config.validation_scenes])
        if not self.validation_files:
            logging.warning("no validation: %s has no scenes of a val split", self.config.data.path)

    def _load_perceptual(self) -> None:
        """Puts the weights of LPIPS on the devices, if the loss has such a term."""
        self._distance = self._perceptual_params = None
        if self.config.lpips_weight:
            dtype = jnp.dtype(COMPUTE_TYPES[self.config.precision]).name
            perceptual = Perceptual(self.config.lpips_weights, dtype)
            self._distance = perceptual.distance
            self._perceptual_params = jax.device_put(perceptual.params, replicated(self.mesh))

    def _claim_workdir(self, stack: contextlib.ExitStack) -> None:
        """Refuses the folder of a converted network, and one that another run writes to."""
        if (self.workdir / VARIABLES_NAME).exists() or (self.workdir / WEIGHTS_NAME).exists():
            raise InputError(f"{self.workdir}: holds a network that was converted; choose another")
        if jax.process_index() == 0:
            stack.enter_context(locked(self.workdir))
            remove_abandoned(self.workdir)

    def _describe(self) -> None:
        """Writes configurations and revision of the code, once the state fits to them."""
        if jax.process_index() == 0:
            save_config(self.config, self.workdir)
            save_network_config(self.config, self.workdir)
            with atomic_path(self.workdir / "revision.txt") as path:
                path.write_text(git_revision() + "\n")

    def _watcher(self) -> Watcher:
        config = self.config
        tokens = config.data.max_triangles + config.model.num_register_tokens
        rate = measure_product_rate(config.model, tokens, COMPUTE_TYPES[config.precision])
        return Watcher(self.workdir, config, self.step, self.mesh.size * rate)

    def _stream(self, loader: SceneLoader, start: int, stop: int) -> BatchStream:
        shard = jax.process_index(), jax.process_count()
        return BatchStream(loader, self.config.batch_size, start, stop, shard)

    def train(self) -> TrainState:
        """Runs the loop, and returns the last state after saving it.

        Raises:
          KeyboardInterrupt: the user pressed Ctrl-C; the state was saved.
        """
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.watcher.started(self.step, parameters, self.mesh.size)
        with StopSignal() as stop:
            try:
                self._run_steps(stop)
            except HopelessRun:
                raise
            except InputError:
                with contextlib.suppress(InputError):
                    self._save_last()
                raise
            self._save_last()
        self.watcher.ended(self.step)
        if stop.interrupted:
            raise KeyboardInterrupt
        return self.state

    def _run_steps(self, stop: StopSignal) -> None:
        """Trains until the last step, or until the run is asked to stop."""
        pending: collections.deque = collections.deque()
        while self.step < self.config.total_steps and not stop.at(self.step):
            start = time.perf_counter()
            batch = next(self.stream)
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

    def _save_last(self) -> None:
        if self.step > (self.checkpoints.latest_step or 0):
            self.checkpoints.save(self.state)
        self.checkpoints.wait()

    def validate(self) -> tuple[dict[str, float], Any]:
        """Computes means over the validation scenes.

        Returns:
          the metrics by name, and images of the first batch, predicted and true [B, H, H, 3].
        """
        loader = SceneLoader(self.validation_files, self.config, training=False)
        batches = -(-len(self.validation_files) // self.config.batch_size)
        totals: collections.Counter[str] = collections.Counter()
        images = None
        with contextlib.closing(self._stream(loader, 0, batches)) as stream:
            for batch in stream:
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
            return self.checkpoints.restore(self.steps.abstract_state)
        if self.config.init_from is None:
            return self.steps.init()
        return self.steps.create(self._warm_start())

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
            metrics, images = self.validate()
            self.watcher.validation(step, metrics)
            self.watcher.images("validation", step, *images)
        if step % self.config.image_every_steps == 0:
            _, images = self.steps.evaluate(self.state.variables, rows, self._perceptual_params)
            self.watcher.images("train", step, *jax.tree.map(np.asarray, images))
        if self._saves_at(step):
            self.checkpoints.save(self.state, metrics)

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
