"""The optimizer: AdamW or Muon with clipping, and its schedule."""

import jax
import optax
from jax.lax import Precision
from optax import contrib

from rf_jax.precision import library_products
from rf_jax.training.config import TrainingConfig

TF32 = Precision.HIGH
"""The name that XLA has for TF32 on NVIDIA GPUs; CPUs compute in float32 all the same."""


def make_schedule(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine, then its last value (without restarts)."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.warmup_steps + config.cosine_steps,
        end_value=config.learning_rate * config.final_learning_rate_factor,
    )


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW or Muon with a learning rate of 1; updates are to be added.

    The training step multiplies the updates by the schedule. So the learning rate follows the step
    even where steps are skipped, as published. Muon (Jordan 2024) takes the matrices of the layers,
    with updates as large as those of AdamW (arXiv 2502.16982, section 2.2). The first and last
    layers, norms and tokens are left to AdamW. Muon's matrix products are exact where
    `config.precision` is "fp32". Elsewhere they may run in TF32, because five Newton-Schulz steps
    need no more (Jordan runs them in bfloat16).
    """
    mask = None if config.decay == "all" else is_matrix
    clip = optax.clip_by_global_norm(config.grad_clip_norm)
    if config.optimizer == "muon":
        muon = contrib.muon(
            1.0,
            weight_decay=config.weight_decay,
            weight_decay_mask=mask,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_layer_matrices,
        )
        exact = config.precision == "fp32"
        return optax.chain(clip, _with_precision(muon, Precision.HIGHEST if exact else TF32))
    return optax.chain(
        clip,
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.scale(-1.0),
    )


def _with_precision(
    tx: optax.GradientTransformation, precision: Precision
) -> optax.GradientTransformation:
    """The same transformation, with its matrix products at a precision."""

    def update(updates, state, params=None):
        with library_products(precision):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def _layer_matrices(params):
    """Input and output axes of the kernels that are stacked over layers; None for other leaves."""
    numbers = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: numbers if path[-1].key == "kernel" and x.ndim == 3 else None, params
    )


def is_matrix(params):
    """True for kernels. Norms and biases are stacked over layers too, so the rank does not tell."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
