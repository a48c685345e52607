"""Ways to train in less memory, tried until one fits."""

import dataclasses
from collections.abc import Callable, Iterator

from rf_jax.planning.gpus import Gpu
from rf_jax.planning.programs import Plan
from rf_jax.training.config import TrainingConfig

DEFAULT_FRACTION = 0.75
"""Share of a GPU's memory that JAX takes unless it is told otherwise."""

LARGEST_FRACTION = 0.92
"""Share that leaves room for CUDA, for NCCL and for the working memory of cuDNN."""

Changes = dict[str, int | bool]
"""Keys of a `TrainingConfig` and their new values."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A configuration that was compiled.

    Attributes:
      changes: what differs from the user's configuration.
      plan: its training step.
    """

    changes: Changes
    plan: Plan


def fits(plan: Plan, gpu: Gpu, fraction: float = LARGEST_FRACTION) -> bool:
    """Whether a program fits in that share of the GPU's memory."""
    return plan.bytes <= fraction * gpu.memory


def find_fitting(
    config: TrainingConfig,
    first: Plan,
    gpu: Gpu,
    plan: Callable[[Changes], Plan],
) -> list[Trial]:
    """Tries what saves memory, until a configuration fits or nothing is left to try.

    A batch in parts costs almost no time, remat computes the layers' forward pass twice, and
    splitting parameters sends them at every step. Remat is tried even where parts alone fit,
    because small parts use a GPU badly.

    Args:
      config: a run whose step does not fit.
      first: its plan.
      gpu: what it must fit.
      plan: compiles the step with changes.

    Returns:
      all trials; those that fit come last.
    """
    trials: list[Trial] = []
    for group in _groups(config, first, gpu, trials):
        for changes in group:
            trials.append(Trial(changes, plan(changes)))
        if any(fits(trial.plan, gpu) for trial in trials):
            break
    return sorted(trials, key=lambda trial: fits(trial.plan, gpu))


def best(trials: list[Trial], gpu: Gpu) -> Trial | None:
    """The trial with the shortest step on paper among those that fit."""
    fitting = [trial for trial in trials if fits(trial.plan, gpu)]
    return min(fitting, key=lambda trial: trial.plan.roofline.seconds, default=None)


def _groups(
    config: TrainingConfig, first: Plan, gpu: Gpu, trials: list[Trial]
) -> Iterator[list[Changes]]:
    """What to try, each group if nothing of the ones before it fits; `trials` grows meanwhile."""
    parts = _parts(config, first.devices)
    enough = _fewest(config, first, gpu, parts)
    group: list[Changes] = [] if enough is None else [{"accumulation_steps": enough}]
    remat: Changes = {} if config.remat else {"remat": True}
    yield [*group, remat] if remat else group
    latest = trials[-1].plan if remat else first
    most = {"accumulation_steps": parts[-1]} if parts else {}
    if parts:
        enough = _fewest(config, latest, gpu, parts)
        guesses = [remat | {"accumulation_steps": n} for n in (enough, parts[-1]) if n]
        # Without remat to add, the first guess has been tried
        tried = [trial.changes for trial in trials]
        yield [guess for guess in guesses if guess not in tried][:1]
    if config.fsdp < first.devices:
        yield [remat | most | {"fsdp": first.devices}]


def _fewest(config: TrainingConfig, plan: Plan, gpu: Gpu, parts: list[int]) -> int | None:
    """The fewest parts that should fit, if activations shrink with them; None if none do."""
    shrinking = plan.memory.get("activations", 0) + plan.memory["temporaries"]
    kept = plan.bytes - shrinking + plan.memory["parameters"]  # and the sum of the gradients
    shrinking *= config.accumulation_steps
    return next((n for n in parts if kept + shrinking / n <= LARGEST_FRACTION * gpu.memory), None)


def _parts(config: TrainingConfig, devices: int) -> list[int]:
    """Numbers of parts, more than now, whose scenes go evenly over the devices; ascending."""
    rows = config.batch_size // devices
    now = config.accumulation_steps
    return [n for n in range(now + 1, rows + 1) if rows % n == 0]
