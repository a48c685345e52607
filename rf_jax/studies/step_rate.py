"""How much of the device's matrix products a training step reaches, part by part.

    %(prog)s --config rooms
    %(prog)s --config rooms --config.batch_size=16

The batch is random, and split over all devices as in training. FLOPs are those that the network
needs, three times as many for its gradient.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rf_jax.command_line import (
    add_config_option,
    make_parser,
    parse_with_overrides,
    run_command_line,
)
from rf_jax.config_files import load_config_file
from rf_jax.models import init_variables
from rf_jax.models.flops import (
    context_flops,
    measure_product_rate,
    view_flops,
    view_independent_flops,
)
from rf_jax.processes import keep_freed_memory
from rf_jax.structs import Batch
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import abstract_batch
from rf_jax.training.optim import make_optimizer, make_schedule
from rf_jax.training.sharding import batch_sharding, make_mesh, replicated, usable_devices
from rf_jax.training.steps import (
    COMPUTE_TYPES,
    create_train_state,
    init_rng,
    make_loss_fn,
    make_model,
    make_train_step,
)


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    add_config_option(parser.add_argument, "tiny, base_256")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the fastest counts")
    args, overrides = parse_with_overrides(parser)
    if args.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {args.repeats}")
    return args, overrides


def main() -> None:
    args, overrides = parse_args()
    keep_freed_memory()
    config = load_config_file(TrainingConfig, args.config, [*overrides, "--config.lpips_weight=0"])
    scenes = config.batch_size // config.accumulation_steps
    mesh = make_mesh(1, scenes, usable_devices(1, scenes, jax.devices()))
    programs = compile_parts(config, mesh)
    model, data = config.model, config.data
    tokens = config.batch_size * (data.max_triangles + model.num_register_tokens)
    dtype = COMPUTE_TYPES[config.precision]
    rate = measure_product_rate(model, tokens, dtype, batch_sharding(mesh))
    seconds = {name: _fastest(program, args.repeats) for name, program in programs.items()}
    scene = view_independent_flops(model, data.max_triangles)
    scene += context_flops(model, data.max_triangles)
    scene += data.views * view_flops(model, data.max_triangles, data.crop or data.resolution)
    forward = scene * config.batch_size
    print(f"{'part':<10}{'seconds':>9}{'TFLOP/s':>9}  of products ({rate / 1e12:.3f} TFLOP/s)")
    for (name, took), flops in zip(
        seconds.items(), (forward, 3 * forward, 3 * forward), strict=True
    ):
        print(f"{name:<10}{took:>9.3f}{flops / took / 1e12:>9.3f}  {flops / took / rate:.1%}")


def compile_parts(config: TrainingConfig, mesh: Mesh) -> dict[str, Callable[[], Any]]:
    """The forward pass with the loss, its gradient, and the whole step."""
    model = make_model(config, mesh)
    optimizer = make_optimizer(config)
    state = create_train_state(config, optimizer, init_variables(config.model, init_rng(0)))
    state = jax.device_put(state, replicated(mesh))
    batch = jax.device_put(random_batch(config), batch_sharding(mesh))
    loss_fn = make_loss_fn(config, model, None)

    def loss(params, state, batch):
        return loss_fn(params, state.constants, batch, None)[0]

    step = make_train_step(config, model, optimizer, make_schedule(config))
    programs = {
        "forward": (loss, state.params, state, batch),
        "gradient": (jax.grad(loss), state.params, state, batch),
        "step": (step, state, batch, None),
    }
    return {
        name: functools.partial(jax.jit(function).lower(*arguments).compile(), *arguments)
        for name, (function, *arguments) in programs.items()
    }


def random_batch(config: TrainingConfig) -> Batch:
    """A batch of the run's sizes, seen by cameras in front of it."""
    rng = np.random.default_rng(0)
    # In [-0.5, 0.5); integers become 0.
    batch = jax.tree.map(
        lambda x: rng.uniform(-0.5, 0.5, x.shape).astype(x.dtype), abstract_batch(config)
    )
    camera = np.eye(4, dtype=np.float32)
    camera[2, 3] = 2
    tokens = batch.tokens.replace(
        texture=np.abs(batch.tokens.texture),
        num_triangles=np.full_like(batch.tokens.num_triangles, config.data.max_triangles),
    )
    return batch.replace(
        tokens=tokens,
        camera_to_world=np.broadcast_to(camera, batch.camera_to_world.shape),
        fov_degrees=np.full_like(batch.fov_degrees, 40),
        images=np.abs(batch.images),
        rotation=np.broadcast_to(np.eye(3, dtype=np.float32), batch.rotation.shape),
        weight=np.ones_like(batch.weight),
    )


def _fastest(program: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest run, after one that is not timed."""
    jax.block_until_ready(program())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program())
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    run_command_line(main)
