"""Compiles every program for a GPU that this machine does not have, and prints a table of them.

    python tests/gpu_offline.py                       # all, for an H100; about an hour on two cores
    python tests/gpu_offline.py --only attention
    python tests/gpu_offline.py --gpu a100-80 --only base_256

It needs the CUDA wheels (pip install -e '.[cuda12]' on Linux) and is run by hand, before releases.
Its table is in docs/performance.md. A program that does not compile ends in a line that says why,
and in exit status 1. All times are bounds on paper.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp

from rf_jax.attention import Sinks, get_attention
from rf_jax.config_files import load_config_file
from rf_jax.models import VARIANTS
from rf_jax.planning.gpus import GIB, GPUS, Gpu
from rf_jax.planning.programs import (
    Plan,
    compile_without_gpu,
    gpu_devices,
    lower,
    plan_program,
    plan_rendering,
    plan_training,
)
from rf_jax.rendering.renderer import PRECISIONS
from rf_jax.rendering.sharding import device_mesh
from rf_jax.scene.random_scene import random_scene
from rf_jax.training.config import TrainingConfig

CONFIGS = ("base_256", "base_512", "large_256", "large_512", "base_64k", "finetune_performer")
ATTENTIONS = ("auto", "dot_product", "flash")
SELF_ATTENTIONS = ("auto", "performer", "sliding_sink", "pooled", "latent")
KEYS = 4096
LONG = (16_384, 65_536)
SINKS = 32
TRIANGLES = (4096, 65_536)
DEVICES = 8

Programs = Iterator[tuple[str, Callable[[], list[Plan]]]]
"""Names, and what compiles the programs of that name."""


def attention_programs(gpu: Gpu) -> Programs:
    """Each attention function and its gradient: exact ones in each type, and long sequences."""
    for name in ATTENTIONS:
        for precision, dtype in PRECISIONS.items():
            yield (
                f"attention {name}, {precision}, {KEYS:,} keys",
                lambda n=name, d=dtype: plan_attention(n, KEYS, d, gpu),
            )
    for count in LONG:
        for name in SELF_ATTENTIONS:
            yield (
                f"attention {name}, bf16, {count:,} tokens",
                lambda n=name, c=count: plan_attention(n, c, jnp.bfloat16, gpu),
            )


def plan_attention(name: str, tokens: int, dtype: Any, gpu: Gpu) -> list[Plan]:
    """A layer's attention, of tokens that attend to themselves, and its gradient."""
    mesh = device_mesh(gpu_devices(gpu, 1))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    heads = [jax.ShapeDtypeStruct((1, tokens, 6, 128), dtype, sharding=place)] * 3
    attention = get_attention(name)
    sinks = Sinks(jnp.array([SINKS]), SINKS)
    more = (None, sinks) if attention.reads_sinks else (None,)
    function, variables = attention.bind(), ()
    if attention.has_variables:
        few = jnp.zeros((1, 2, 6, 128), dtype)
        variables = (function.init(jax.random.key(0), few, few, few),)
        function = function.apply

    def loss(*heads):
        return function(*variables, *heads, *more).astype(jnp.float32).sum()

    programs = {
        "forward": lambda *heads: function(*variables, *heads, *more),
        "with gradient": jax.grad(loss, (0, 1, 2)),
    }
    arrays = dict(zip(("query", "key", "value"), heads, strict=True))
    return [
        plan_program(label, lower(jax.jit(program), mesh, *heads), arrays, gpu, 1)
        for label, program in programs.items()
    ]


def rendering_programs(gpu: Gpu) -> Programs:
    """Both stages of both published networks, and a scene that eight GPUs share."""
    for variant in ("v1_base", "v1.1_large_swin"):
        for precision, dtype in PRECISIONS.items():
            for count in TRIANGLES:
                yield (
                    f"{variant}, {precision}, {count:,} triangles",
                    lambda v=variant, d=dtype, n=count: plan_rendering(
                        VARIANTS[v], random_scene(n), 512, d, gpu, 1
                    ),
                )
    fused = dataclasses.replace(VARIANTS["v1_base"], feed_forward="fused")
    yield (
        f"v1_base, fused, fp16, {TRIANGLES[0]:,} triangles",
        lambda: plan_rendering(fused, random_scene(TRIANGLES[0]), 512, jnp.float16, gpu, 1),
    )
    yield (
        f"v1_base, fp16, 65,536 triangles on {DEVICES} GPUs",
        lambda: plan_rendering(
            VARIANTS["v1_base"], random_scene(65_536), 512, jnp.float16, gpu, DEVICES
        ),
    )


def training_programs(gpu: Gpu) -> Programs:
    """The published configurations, one in float32, and one with split parameters."""
    runs = [(name, {}) for name in CONFIGS]
    runs += [("base_256", {"precision": "fp32", "remat": True})]
    runs += [("base_256", {"model.feed_forward": "fused"})]
    runs += [("large_512", {"fsdp": DEVICES})]
    for name, changes in runs:
        options = "".join(f", {key}={value}" for key, value in changes.items())

        def compile_step(name=name, changes=changes):
            overrides = [f"--config.{key}={value}" for key, value in changes.items()]
            config = load_config_file(TrainingConfig, name, overrides)
            return [plan_training(config, gpu, DEVICES)]

        yield f"{name}{options} on {DEVICES} GPUs", compile_step


def row(name: str, plan: Plan) -> str:
    bound = plan.roofline
    conditionals = len(bound.of_kind("conditional"))
    values = (
        f"{name}: {plan.name}",
        f"{plan.bytes / GIB:.2f}",
        f"{bound.flops / 1e12:.3f}",
        f"{bound.product_seconds * 1e3:.2f}",
        f"{bound.seconds * 1e3:.2f}",
        f"{bound.product_share:.0%}",
        f"{bound.runs:,}",
        str(conditionals),
    )
    return f"| {' | '.join(values)} |"


def versions() -> str:
    found = [f"jax {jax.__version__}"]
    for package in (
        "jax-cuda12-plugin",
        "jax-cuda13-plugin",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cuda-nvcc",
    ):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--only", default="", help="only programs whose name has this text")
    args = parser.parse_args()
    compile_without_gpu()
    gpu, failed = GPUS[args.gpu], []
    print(f"On paper, compiled for {gpu.name} without one; {versions()}\n")
    print(
        "| program | GiB per GPU | TFLOP | products, ms | bound, ms | products | launches | ",
        end="",
    )
    print(f"conditions |\n|{'---|' * 8}", flush=True)
    for programs in (attention_programs, rendering_programs, training_programs):
        for name, compile_programs in programs(gpu):
            if args.only not in name:
                continue
            start = time.perf_counter()
            try:
                print("\n".join(row(name, plan) for plan in compile_programs()), flush=True)
            except Exception as error:  # whatever a compiler raises is the finding
                failed.append(f"{name}: {type(error).__name__}: {str(error)[:500]}")
            print(f"{name} took {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(failed), file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
