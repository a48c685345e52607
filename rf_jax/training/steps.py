"""The state of a training run, and the steps that train and evaluate it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rf_jax.attention.sharding import shard_attention
from rf_jax.images.metrics import psnr, ssim
from rf_jax.models import RenderFormer
from rf_jax.radiance import display, linear_radiance, log_radiance
from rf_jax.structs import Batch
from rf_jax.training.config import TrainingConfig
from rf_jax.training.losses import Distance, training_loss
from rf_jax.training.sharding import BATCH_AXES

INIT_STREAM, REDRAW_STREAM = 0, 1
"""Numbers of independent random streams, which are folded into the seed of a run."""

COMPUTE_TYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
"""Types of matrix products, by the names of `TrainingConfig.precision`."""


@struct.dataclass
class TrainState:
    """All that a step reads and writes, and that a resumed run needs.

    The position in the data and the random streams are functions of `step` and the configured seed.

    Attributes:
      step: number of batches seen, [] int32.
      params: the trained parameters, float32.
      constants: RoPE frequencies, and the constants of attention functions.
      opt_state: the state of the optimizer.
      ema: the averaged parameters; None without averaging.
      nonfinite: number of steps that were skipped because a gradient was not finite, [] int32.
      nonfinite_in_a_row: how many of the last steps were skipped in a row, [] int32.
      skipped_scenes: number of unusable files that were skipped, [] int32.
    """

    step: jax.Array
    params: Any
    constants: Any
    opt_state: Any
    ema: Any
    nonfinite: jax.Array
    nonfinite_in_a_row: jax.Array
    skipped_scenes: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to render with, with averaged parameters if there are any."""
        params = self.params if self.ema is None else self.ema
        return {"params": params, "constants": self.constants}


def make_model(config: TrainingConfig, mesh: Mesh, dtype: Any = None) -> RenderFormer:
    """The network on a mesh, in the run's compute type or in `dtype`.

    GPUs run the layers unrolled: a loop would copy all that the gradient needs of a layer into
    stacks over the layers, and out of them again.
    """
    model = config.model
    return RenderFormer(
        model,
        dtype or COMPUTE_TYPES[config.precision],
        shard_attention(model.view_independent.attention, mesh, BATCH_AXES),
        shard_attention(model.view_dependent.attention, mesh, BATCH_AXES),
        token_split=(mesh, P(BATCH_AXES)) if mesh.size > 1 else None,
        remat=config.remat,
        unroll=mesh.devices.flat[0].platform == "gpu",
    )


def init_rng(seed: int) -> jax.Array:
    """The key that a run's fresh variables are drawn with."""
    return jax.random.fold_in(jax.random.key(seed), INIT_STREAM)


def create_train_state(
    config: TrainingConfig, tx: optax.GradientTransformation, variables: dict[str, Any]
) -> TrainState:
    """The state before the first step, from the variables of a network."""
    params = variables["params"]

    def zero():
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        params=params,
        constants=variables.get("constants", {}),
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if config.ema_decay else None,
        nonfinite=zero(),
        nonfinite_in_a_row=zero(),
        skipped_scenes=zero(),
    )


def predict(model: RenderFormer, variables: dict[str, Any], batch: Batch, resolution: int):
    """Renders the views of a batch.

    The rigid motion moves what the view-independent stage sees. If the view-dependent stage works
    in camera space, it sees the scene without the motion, which would cancel there; otherwise the
    cameras move along.

    Args:
      model: the network.
      variables: its variables.
      batch: B scenes with V images of H pixels per side.
      resolution: side of the whole views, of which the images may be crops.

    Returns:
      log10(1 + radiance) [B, V, H, H, 3].
    """

    def move(points, translation):
        # A sum instead of a product, because it is computed in float32 on every device.
        turned = (batch.rotation[:, None, None] * points[..., None, :]).sum(-1)
        return turned + translation[:, None, None]

    tokens = batch.tokens
    scene = tokens.replace(
        triangles=move(tokens.triangles, batch.translation),
        vertex_normals=move(tokens.vertex_normals, jnp.zeros_like(batch.translation)),
    )
    encoding = model.apply(variables, scene, method=RenderFormer.encode_scene)
    cameras = batch.camera_to_world
    if model.config.turn_to_cam_coord:
        encoding = encoding.replace(triangles=tokens.triangles)
    else:
        cameras = _move_cameras(cameras, batch)
    side = batch.images.shape[2]
    crop = None if side == resolution else (batch.crop_origin, side)
    image, _ = model.apply(
        variables,
        encoding,
        cameras,
        batch.fov_degrees,
        resolution,
        crop,
        method=RenderFormer.render_view,
    )
    return image


def _move_cameras(cameras, batch):
    """Cameras [B, V, 4, 4] that move along with their scenes."""
    motion = jnp.zeros((*batch.translation.shape[:-1], 4, 4), cameras.dtype)
    motion = motion.at[:, :3, :3].set(batch.rotation).at[:, :3, 3].set(batch.translation)
    motion = motion.at[:, 3, 3].set(1.0)
    return jnp.einsum("bij,bvjk->bvik", motion, cameras, precision=jax.lax.Precision.HIGHEST)


def make_loss_fn(config: TrainingConfig, model: RenderFormer, perceptual: Distance | None):
    """Makes loss_fn(params, constants, batch, perceptual_params).

    It returns the loss, and metrics by name: the loss and its terms, and the PSNR.
    """

    def loss_fn(params, constants, batch, perceptual_params):
        variables = {"params": params, "constants": constants}
        prediction = predict(model, variables, batch, config.data.resolution)
        radiance = batch.images.astype(prediction.dtype)
        loss, terms = training_loss(
            prediction, radiance, config.lpips_weight, perceptual, perceptual_params
        )
        decibels = psnr(linear_radiance(jax.lax.stop_gradient(prediction)), radiance).mean()
        return loss, terms | {"loss": loss, "psnr": decibels}

    return loss_fn


def make_train_step(
    config: TrainingConfig,
    model: RenderFormer,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    perceptual: Distance | None = None,
):
    """Makes train_step(state, batch, perceptual_params), which is to be jitted.

    It returns the new state and metrics by name. If a gradient is not finite, parameters, optimizer
    and averaged parameters stay as they were, and the step is counted as skipped.

    Args:
      config: the run.
      model: the network.
      tx: the optimizer of `make_optimizer`.
      schedule: step -> learning rate.
      perceptual: LPIPS; needed unless its weight in the loss is 0.
    """
    gradient = _make_gradient(config, make_loss_fn(config, model, perceptual))

    def train_step(state: TrainState, batch: Batch, perceptual_params: Any):
        if config.performer_redraw_every_steps:
            state = _redraw(config, state)
        grads, metrics = gradient(state, batch, perceptual_params)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        learning_rate = schedule(state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: (learning_rate * u).astype(u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - config.ema_decay)
        new = state.replace(params=params, opt_state=opt_state, ema=ema)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = new.replace(
            step=state.step + 1,
            nonfinite=state.nonfinite + ~finite,
            nonfinite_in_a_row=jnp.where(finite, 0, state.nonfinite_in_a_row + 1),
            skipped_scenes=state.skipped_scenes + batch.skipped.sum(),
        )
        metrics |= {
            "gradient_norm": norm,
            "learning_rate": learning_rate,
            "triangles": batch.tokens.num_triangles.mean(),
            "nonfinite_steps": new.nonfinite,
            "nonfinite_in_a_row": new.nonfinite_in_a_row,
            "skipped_scenes": new.skipped_scenes,
        }
        return new, metrics

    return train_step


def _redraw(config: TrainingConfig, state: TrainState) -> TrainState:
    """Draws the random constants of the attention functions anew if that is due at this step."""
    rng = jax.random.fold_in(jax.random.key(config.seed), REDRAW_STREAM)
    rng = jax.random.fold_in(rng, state.step)
    due = (state.step > 0) & (state.step % config.performer_redraw_every_steps == 0)
    stages = config.model.view_independent, config.model.view_dependent
    constants = state.constants
    # In an order that all processes share; a function that both stages use runs once.
    redraws = dict.fromkeys(stage.attention.redraw for stage in stages)
    for redraw in filter(None, redraws):
        constants = jax.lax.cond(due, lambda c, f=redraw: f(c, rng), lambda c: c, constants)
    return state.replace(constants=constants)


def _make_gradient(config: TrainingConfig, loss_fn):
    """Makes gradient(state, batch, perceptual_params) -> gradients, metrics.

    Both are means over the `accumulation_steps` parts of the batch.
    """
    parts = config.accumulation_steps

    def gradient(state, batch, perceptual_params):
        def part_gradient(part):
            grad_fn = jax.grad(loss_fn, has_aux=True)
            return grad_fn(state.params, state.constants, part, perceptual_params)

        if parts == 1:
            return part_gradient(batch)

        # Row r goes to part r % parts, so that each device keeps the rows that it has.
        split = jax.tree.map(
            lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
        )
        zeros = jax.eval_shape(part_gradient, jax.tree.map(lambda x: x[0], split))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), zeros)

        def add(total, part):
            return jax.tree.map(jnp.add, total, part_gradient(part)), None

        total, _ = jax.lax.scan(add, zeros, split)
        return jax.tree.map(lambda x: x / parts, total)

    return gradient


def make_eval_step(config: TrainingConfig, model: RenderFormer, perceptual: Distance | None):
    """Makes eval_step(variables, batch, perceptual_params), which is to be jitted.

    It returns metrics by name, summed over the scenes of the batch, and two arrays [B, H, H, 3] of
    log10(1 + radiance), predicted and true, of the first view of each scene. LPIPS compares display
    values, as the loss does.
    """

    def eval_step(variables, batch: Batch, perceptual_params):
        prediction = predict(model, variables, batch, config.data.resolution)
        radiance = batch.images.astype(prediction.dtype)
        target = log_radiance(radiance)
        shown = display(prediction), display(target)
        values = {
            "l1": jnp.abs(prediction - target).mean((2, 3, 4)),
            "psnr": psnr(linear_radiance(prediction), radiance),
            "ssim": ssim(*shown),
        }
        if perceptual is not None:
            flat = (x.reshape(-1, *x.shape[2:]) for x in shown)
            distances = perceptual(perceptual_params, *flat)
            values["lpips"] = distances.reshape(values["l1"].shape)
        sums = {name: (value.mean(1) * batch.weight).sum() for name, value in values.items()}
        images = prediction[:, 0].astype(jnp.float32), target[:, 0].astype(jnp.float32)
        return sums | {"scenes": batch.weight.sum()}, images

    return eval_step
