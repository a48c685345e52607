"""The optimizer: AdamW with clipping, and its schedule."""

import jax
import optax

from rf_jax.training_config import TrainingConfig


def make_schedule(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up from 0, a cosine, and its last value from then on (no restart)."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.warmup_steps + config.cosine_steps,
        end_value=config.learning_rate * config.final_learning_rate_factor,
    )


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping and AdamW with a learning rate of -1: the step multiplies by the schedule.

    So the schedule follows the step also where steps are skipped, as published.
    """
    mask = None if config.decay == "all" else is_matrix
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.scale(-1.0),
    )


def is_matrix(params):
    """True for kernels; norms, biases and tokens are stacked too, so their rank does not tell."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
