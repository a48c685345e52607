"""Operations of both stages: those that formulas count, and those in the compiled programs.

    %(prog)s --variant v2_200m --triangles 1024 4096 16384
    %(prog)s --variant v2_200m --attention auto --triangles 1024

The formulas (`rf_jax.models.flops`) count what the valid tokens need. Programs are compiled for a
CPU and not run; they also compute padding, pairs of tokens that are masked, and what encodes
materials and environments.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rf_jax.attention import ATTENTIONS
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.models import VARIANTS, RenderFormer, RenderFormerConfig
from rf_jax.models.flops import context_flops, view_flops, view_independent_flops
from rf_jax.models.renderformer import init_variables
from rf_jax.planning import kernels
from rf_jax.planning.hlo import Instruction, Module, parse_module
from rf_jax.rendering.generations import network_input
from rf_jax.rendering.sharding import device_mesh
from rf_jax.rendering.stages import encode, render
from rf_jax.scene.random_scene import random_scene


class Operations(NamedTuple):
    """Operations of a stage by the formula and in the compiled program."""

    formula: float
    compiled: float


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--variant", choices=VARIANTS, default="v1_base", help="size of the network")
    add("--triangles", type=int, nargs="+", default=[1024, 4096], help="in scenes with one light")
    add("--resolution", type=int, default=512, help="image side in pixels")
    add("--attention", choices=ATTENTIONS, help="of stage one (default: that of the variant)")
    args = parser.parse_args()
    if min(args.triangles) < 1:
        parser.error("--triangles: expected positive numbers")
    return args


def main() -> None:
    args = parse_args()
    config = VARIANTS[args.variant]
    if args.attention:
        config = dataclasses.replace(config, view_independent_attention=args.attention)
    print(f"TFLOP of {args.variant}, {config.view_independent_attention}, fp32")
    print(f"{'triangles':>9}{'stage one':>11}{'compiled':>11}{'view':>11}{'compiled':>11}")
    for count in args.triangles:
        first, view = count_operations(config, count, args.resolution)
        print(
            f"{count:>9,}{first.formula / 1e12:>11.3g}{first.compiled / 1e12:>11.3g}"
            f"{view.formula / 1e12:>11.3g}{view.compiled / 1e12:>11.3g}",
            flush=True,
        )


def count_operations(
    config: RenderFormerConfig, triangles: int, resolution: int
) -> tuple[Operations, Operations]:
    """Operations of the first stage, with the keys and values of the second, and of one view.

    Args:
      config: the network.
      triangles: in a scene with one light.
      resolution: image side in pixels.
    """
    model, mesh = RenderFormer(config, jnp.float32), device_mesh(jax.devices("cpu")[:1])
    variables = jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))
    scene = variables, network_input(random_scene(triangles, config), config, None)
    first = functools.partial(encode, model, mesh=mesh)
    view = functools.partial(render, model, mesh=mesh, split=False, resolution=resolution)
    cameras = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 1, 4, 4), (1, 1)))
    encoded = variables, jax.eval_shape(first, *scene), *cameras
    formula = view_independent_flops(config, triangles) + context_flops(config, triangles)
    return (
        Operations(formula, _compiled(first, *scene)),
        Operations(view_flops(config, triangles, resolution), _compiled(view, *encoded)),
    )


def _compiled(function, *arguments) -> float:
    module = parse_module(jax.jit(function).lower(*arguments).compile().as_text())
    return sum(_operations(module, module.entry, 1))


def _operations(module: Module, name: str, runs: int) -> Iterator[float]:
    """Operations of a computation that runs so often, instruction by instruction.

    Of the branches of a condition the one with most operations counts.
    """
    computation = module.computations[name]
    for instruction in computation:
        if instruction.opcode == "while":
            yield from _operations(module, instruction.body, runs * instruction.trip_count)
        elif instruction.opcode == "conditional":
            yield max(sum(_operations(module, branch, runs)) for branch in instruction.called)
        elif instruction.opcode == "convolution":
            yield runs * _convolution(computation[instruction.operands[1]], instruction)
        elif instruction.opcode in ("call", "fusion", "async-start"):
            for called in instruction.called:
                yield from _operations(module, called, runs)
        else:
            yield runs * kernels.flops(module, computation, instruction)


def _convolution(kernel: Instruction, result: Instruction) -> float:
    """Twice the elements of the result times those of the kernel that each of them meets."""
    labels = result.attribute(r"dim_labels=\w+_(\w+)->")
    sizes = kernel.shapes[0].dims
    return 2.0 * result.shapes[0].elements * math.prod(sizes) / sizes[labels.index("o")]


if __name__ == "__main__":
    run_command_line(main)
