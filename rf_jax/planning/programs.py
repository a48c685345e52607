"""Compiles the programs of training and rendering for GPUs that this machine need not have.

XLA, Triton and ptxas all run as they would on the GPU; what is missing is the choice of the fastest
kernels by timing them, and the working memory that cuDNN asks for.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.errors import InputError
from rf_jax.images.lpips import Perceptual, write_blank_weights
from rf_jax.models import RenderFormer, RenderFormerConfig, init_variables
from rf_jax.planning.gpus import Gpu
from rf_jax.planning.hlo import parse_module
from rf_jax.planning.memory import activation_bytes, tree_bytes
from rf_jax.planning.roofline import Roofline, roofline
from rf_jax.rendering.generations import AnyScene, network_input
from rf_jax.rendering.sharding import (
    BY_VIEW,
    device_mesh,
    encoding_specs,
    is_worth_splitting,
    pad_tokens,
)
from rf_jax.rendering.stages import cast_variables, encode, for_platform, render
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import abstract_batch
from rf_jax.training.loop import compile_steps
from rf_jax.training.sharding import batch_sharding, make_mesh, replicated, usable_devices
from rf_jax.training.steps import COMPUTE_TYPES, make_model

PLUGINS = ("xla_cuda12", "xla_cuda13")
"""The modules of the CUDA wheels that hold the compiler."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled program.

    Attributes:
      name: what it does.
      devices: number of GPUs that run it together.
      memory: bytes on each device by kind, disjoint.
      roofline: the bound on its time on each device.
    """

    name: str
    devices: int
    memory: dict[str, int]
    roofline: Roofline

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())


def compile_without_gpu() -> None:
    """Keeps JAX from looking for a GPU; must be called before JAX is used.

    Raises:
      InputError: the CUDA wheels, which hold the compiler, are not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    # XLA complains of slow compilation, which is no news here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.suppress(ModuleNotFoundError):
        if any(importlib.util.find_spec(f"jax_plugins.{name}") for name in PLUGINS):
            return
    raise InputError(
        "planning needs the compiler in JAX's CUDA wheels, though no GPU: install them on Linux "
        f"with pip install 'jax[cuda12]=={jax.__version__}'"
    )


def gpu_devices(gpu: Gpu, count: int) -> list[Any]:
    """Descriptions of the GPUs of one host, which programs can be compiled for but not run on."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=gpu.target_config(), topology=f"1x1x{count}"
    )
    return list(topology.devices)


def plan_training(config: TrainingConfig, gpu: Gpu, devices: int) -> Plan:
    """Compiles the training step of a run, LPIPS included if the loss has it.

    As in training, devices are left out that a small batch cannot be split over.

    Raises:
      InputError: `fsdp` does not go with the number of devices.
    """
    scenes = config.batch_size // config.accumulation_steps
    used = usable_devices(config.fsdp, scenes, gpu_devices(gpu, devices))
    mesh = make_mesh(config.fsdp, scenes, used)
    with blank_perceptual(config) as perceptual:
        distance = perceptual and perceptual.distance
        steps = compile_steps(config, mesh, make_model(config, mesh), distance)
        weights = _abstract(perceptual and perceptual.params, replicated(mesh))
        batch = _abstract(abstract_batch(config), batch_sharding(mesh))
        lowered = lower(steps.train, mesh, steps.abstract_state, batch, weights)
    state = steps.abstract_state
    arguments = {
        "parameters": (state.params, state.constants),
        "optimizer": state.opt_state,
        "averaged parameters": state.ema,
        "weights of LPIPS": weights,
        "batch": batch,
    }
    return plan_program("training step", lowered, arguments, gpu, len(used))


def plan_rendering(
    config: RenderFormerConfig,
    scene: AnyScene,
    resolution: int,
    dtype: Any,
    gpu: Gpu,
    devices: int,
) -> list[Plan]:
    """Compiles both stages as the renderer would run them, with one view on each of the GPUs.

    Args:
      config: the network.
      scene: only the number of its triangles matters; those of a large scene are split.
      resolution: image side in pixels.
      dtype: the type of matrix products.
      gpu: what to compile for.
      devices: number of GPUs.
    """
    model, found = RenderFormer(config, dtype), gpu_devices(gpu, devices)
    variables = jax.eval_shape(
        lambda: for_platform(
            cast_variables(init_variables(config, jax.random.key(0)), dtype), found[0].platform
        )
    )
    tokens, views_mesh = network_input(scene, config, None), device_mesh(found)
    split = is_worth_splitting(tokens, model, devices)
    if split:
        tokens = pad_tokens(tokens, config.num_register_tokens, devices)
    mesh = views_mesh if split else device_mesh(found[:1])
    arguments = {
        "parameters": _abstract(variables, replicated(mesh)),
        "scene": _abstract(tokens, replicated(mesh)),
    }
    program = functools.partial(encode, model, mesh=mesh)
    lowered = lower(jax.jit(program), mesh, *arguments.values())
    plans = [plan_program("view-independent stage", lowered, arguments, gpu, mesh.size)]

    encoding = jax.eval_shape(program, *arguments.values())
    specs = encoding_specs(encoding) if split else jax.tree.map(lambda _: P(), encoding)
    encoding = jax.tree.map(
        lambda x, spec: _abstract(x, NamedSharding(views_mesh, spec)), encoding, specs
    )
    cameras = np.zeros((1, devices, 4, 4), np.float32), np.zeros((1, devices), np.float32)
    arguments = {
        "parameters": _abstract(variables, replicated(views_mesh)),
        "encoded scene": encoding,
    }
    static = {"resolution": resolution, "mesh": views_mesh, "split": split}
    program = functools.partial(render, model, **static)
    cameras = _abstract(cameras, NamedSharding(views_mesh, BY_VIEW))
    lowered = lower(jax.jit(program), views_mesh, *arguments.values(), *cameras)
    name = f"a view of {resolution}x{resolution} on each device"
    return [*plans, plan_program(name, lowered, arguments, gpu, devices)]


def lower(program: Any, mesh: Mesh, *arguments: Any) -> jax.stages.Lowered:
    """Lowers a jitted function for the devices of `gpu_devices`, which form a mesh.

    From JAX 0.11 on, Pallas asks the current mesh, and then this machine, for the kind of GPU that
    it lowers Triton kernels for.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return program.lower(*arguments)


def plan_program(
    name: str, lowered: jax.stages.Lowered, arguments: dict[str, Any], gpu: Gpu, devices: int
) -> Plan:
    """Compiles a program, and tells the kinds of its memory apart.

    Args:
      name: what it does.
      lowered: the program, for devices of `gpu_devices`.
      arguments: what it takes, by kind of memory; trees of `jax.ShapeDtypeStruct`.
      gpu, devices: what it was lowered for.
    """
    compiled = lowered.compile()
    module = parse_module(compiled.as_text())
    sizes = compiled.memory_analysis()
    memory = {kind: size for kind, tree in arguments.items() if (size := tree_bytes(tree))}
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if results > 2**20:
        memory["result"] = results
    activations = min(activation_bytes(module), sizes.temp_size_in_bytes)
    if activations:
        memory["activations"] = activations
    memory["temporaries"] = sizes.temp_size_in_bytes - activations
    return Plan(name, devices, memory, roofline(module, gpu, devices))


@contextlib.contextmanager
def blank_perceptual(config: TrainingConfig) -> Iterator[Perceptual | None]:
    """LPIPS with blank weights, because only their shapes matter; None if the loss has none."""
    if not config.lpips_weight:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        write_blank_weights(Path(folder))
        yield Perceptual(folder, jnp.dtype(COMPUTE_TYPES[config.precision]).name)


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
