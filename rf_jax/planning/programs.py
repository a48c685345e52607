"""Compiles the programs of training and rendering for GPUs that this machine need not have.

XLA, Triton and ptxas all run as they would on the GPU; what is missing is the choice of the fastest
kernels by timing them, and the working memory that cuDNN asks for.
"""

import contextlib
import dataclasses
import importlib.util
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
from rf_jax.images.radiance import linear_radiance
from rf_jax.models import RenderFormer, RenderFormerConfig, init_variables
from rf_jax.planning.gpus import Gpu
from rf_jax.planning.hlo import parse_module
from rf_jax.planning.memory import activation_bytes, tree_bytes
from rf_jax.planning.roofline import Roofline, roofline
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.structs import Scene
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import abstract_batch
from rf_jax.training.loop import compile_steps
from rf_jax.training.sharding import batch_sharding, make_mesh, replicated
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

    Raises:
      InputError: the batch does not go with the number of devices.
    """
    mesh = make_mesh(
        config.fsdp, config.batch_size // config.accumulation_steps, gpu_devices(gpu, devices)
    )
    with _perceptual(config) as perceptual:
        distance = perceptual and perceptual.distance
        steps = compile_steps(config, mesh, make_model(config, mesh), distance)
        weights = _abstract(perceptual and perceptual.params, replicated(mesh))
        batch = _abstract(abstract_batch(config), batch_sharding(mesh))
        lowered = steps.train.lower(steps.abstract_state, batch, weights)
    state = steps.abstract_state
    arguments = {
        "parameters": (state.params, state.constants),
        "optimizer": state.opt_state,
        "averaged parameters": state.ema,
        "weights of LPIPS": weights,
        "batch": batch,
    }
    return _plan("training step", lowered, arguments, gpu, devices)


def plan_rendering(
    config: RenderFormerConfig,
    scene: Scene,
    resolution: int,
    dtype: Any,
    gpu: Gpu,
    devices: int,
) -> list[Plan]:
    """Compiles both stages: a scene's on one GPU, and one view on each of the GPUs.

    Args:
      config: the network.
      scene: only the number of its triangles matters.
      resolution: image side in pixels.
      dtype: the type of matrix products.
      gpu: what to compile for.
      devices: number of GPUs that share the views.
    """
    model = RenderFormer(config, dtype)
    found = gpu_devices(gpu, devices)
    one, all_ = (Mesh(np.array(used), ("views",)) for used in (found[:1], found))
    variables = jax.eval_shape(lambda: _cast(init_variables(config, jax.random.key(0)), dtype))

    def encode(variables, tokens):
        return model.apply(variables, tokens, method=RenderFormer.encode_scene)

    def render(variables, encoding, camera_to_world, fov_degrees):
        cameras = camera_to_world, fov_degrees
        view = RenderFormer.render_view
        image, _ = model.apply(variables, encoding, *cameras, resolution, method=view)
        return image if config.use_ldr else linear_radiance(image)

    tokens = _abstract(prepare_scene(scene, config), replicated(one))
    weights = _abstract(variables, replicated(one))
    lowered = jax.jit(encode).lower(weights, tokens)
    stage_one = {"parameters": weights, "scene": tokens}
    plans = [_plan("view-independent stage", lowered, stage_one, gpu, 1)]

    encoding = _abstract(jax.eval_shape(encode, weights, tokens), replicated(all_))
    weights = _abstract(variables, replicated(all_))
    by_view = NamedSharding(all_, P(None, "views"))
    cameras = _abstract(
        (np.zeros((1, devices, 4, 4), np.float32), np.zeros((1, devices), np.float32)), by_view
    )
    specs = P(), P(), P(None, "views"), P(None, "views")
    views = jax.shard_map(
        render, mesh=all_, in_specs=specs, out_specs=P(None, "views"), check_vma=False
    )
    lowered = jax.jit(views).lower(weights, encoding, *cameras)
    stage_two = {"parameters": weights, "encoded scene": encoding}
    return [*plans, _plan("one view", lowered, stage_two, gpu, devices)]


@contextlib.contextmanager
def _perceptual(config: TrainingConfig) -> Iterator[Perceptual | None]:
    """LPIPS with blank weights, because only their shapes matter; None if the loss has none."""
    if not config.lpips_weight:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        write_blank_weights(Path(folder))
        yield Perceptual(folder, jnp.dtype(COMPUTE_TYPES[config.precision]).name)


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _cast(variables: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """As the renderer does: kernels in the compute type, everything else in float32."""

    def cast(path, leaf):
        return leaf.astype(dtype if path[-1].key == "kernel" else jnp.float32)

    return jax.tree_util.tree_map_with_path(cast, variables)


def _plan(
    name: str, lowered: jax.stages.Lowered, arguments: dict[str, Any], gpu: Gpu, devices: int
) -> Plan:
    """Compiles, and tells the kinds of memory apart."""
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
