"""Every program is lowered for NVIDIA GPUs on a machine that has none, and without their wheels.

Lowering ends before the compiler of the GPU. It shows that each operation has a rule there, and
which kernels are called. `tests/gpu_offline.py` compiles.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from rf_jax.config_files import load_config_file
from rf_jax.models import VARIANTS, RenderFormer, init_variables
from rf_jax.planning.programs import blank_perceptual
from rf_jax.rendering.generations import network_input
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.renderer import PRECISIONS
from rf_jax.rendering.sharding import BY_VIEW, device_mesh, encoding_specs, pad_tokens
from rf_jax.rendering.stages import cast_variables, encode, render
from rf_jax.scene.random_scene import random_scene
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import abstract_batch
from rf_jax.training.loop import compile_steps
from rf_jax.training.sharding import batch_sharding, make_mesh, replicated
from rf_jax.training.steps import make_model

KERNELS = ("__cudnn$fmha", "mosaic_gpu", "triton")
LIMITED = jax.__version_info__ >= (0, 11)
"""Newer JAX lowers Triton for the devices of a mesh, which are no GPUs here."""


def lowered(program, *arguments):
    """The StableHLO of a program for NVIDIA GPUs."""
    traced = program.trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def kernels(text):
    return {name for name in KERNELS if name in text}


def placed(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


MODEL = dataclasses.replace(
    VARIANTS["testing"],
    latent_dim=72,
    view_transformer_latent_dim=72,
    num_layers=1,
    texture_encode_patch_size=1,
)
"""A small network whose heads have a width that cuDNN takes."""

FUSED = dataclasses.replace(
    MODEL, latent_dim=128, num_heads=2, dim_feedforward=128, feed_forward="fused"
)
"""Its view-independent stage has sizes that the kernel of the feed-forward networks takes."""

WINDOWED = dataclasses.replace(MODEL, view_transformer_use_swin_attn=True)


def small(model=MODEL, triangles=24, **changes):
    """A run of the small network with 8 scenes per step."""
    config = load_config_file(TrainingConfig, "debug")
    model = dataclasses.replace(model, view_independent_attention=changes.pop("attention", "auto"))
    data = dataclasses.replace(config.data, resolution=32, max_triangles=triangles, views=1)
    return dataclasses.replace(config, batch_size=8, model=model, data=data, **changes)


@pytest.mark.parametrize(
    ("devices", "changes", "expected"),
    [
        (1, {"precision": "bf16"}, {"__cudnn$fmha"}),
        (1, {"precision": "fp32"}, set()),
        (1, {"precision": "bf16", "attention": "performer"}, {"__cudnn$fmha"}),
        (8, {"precision": "fp32", "attention": "performer", "fsdp": 2}, set()),
        (8, {"precision": "bf16", "fsdp": 4, "remat": True}, {"__cudnn$fmha"}),
        (8, {"precision": "fp32", "optimizer": "muon", "lpips_weight": 0.05}, set()),
        (2, {"precision": "bf16", "accumulation_steps": 2}, {"__cudnn$fmha"}),
        (8, {"precision": "bf16", "attention": "dot_product"}, {"__cudnn$fmha"}),
        pytest.param(
            8,
            {"precision": "bf16", "attention": "flash"},
            set(KERNELS),
            marks=pytest.mark.skipif(LIMITED, reason="Triton needs a mesh of GPUs"),
        ),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_training_steps(devices, changes, expected):
    text = lowered_training(small(**changes), devices)
    assert kernels(text) == expected
    assert ("mhlo.num_partitions = 1 " in text) == (devices == 1)


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 1), (8, 2)])
def test_a_training_step_with_a_kernel_for_its_feed_forward_networks(devices, fsdp):
    triangles = 128 - FUSED.num_register_tokens
    text = lowered_training(small(FUSED, triangles, precision="bf16", fsdp=fsdp), devices)
    assert kernels(text) == {"__cudnn$fmha", "mosaic_gpu"}
    rows = 1024 // devices
    assert f"tensor<{rows}x128xbf16>, tensor<128x128xbf16>, tensor<128x128xbf16>)" in text


def lowered_training(config, devices):
    parts = config.batch_size // config.accumulation_steps
    mesh = make_mesh(config.fsdp, parts, jax.devices()[:devices])
    with blank_perceptual(config) as perceptual:
        distance = perceptual and perceptual.distance
        weights = placed(perceptual and perceptual.params, replicated(mesh))
        steps = compile_steps(config, mesh, make_model(config, mesh), distance)
        batch = placed(abstract_batch(config), batch_sharding(mesh))
        return lowered(steps.train, steps.abstract_state, batch, weights)


@pytest.mark.parametrize(
    ("config", "precision", "split"),
    [
        (MODEL, "fp16", False),
        (MODEL, "fp32", False),
        (MODEL, "bf16", True),
        (FUSED, "fp16", False),
        (FUSED, "bf16", True),
        (WINDOWED, "fp16", False),
        (WINDOWED, "fp32", True),
    ],
    ids=[
        "fp16",
        "fp32",
        "bf16, split",
        "fused",
        "fused, split",
        "windows, fp16",
        "windows, fp32, split",
    ],
)
def test_both_stages_of_a_rendering(config, precision, split):
    tokens = prepare_scene(random_scene(40), config)
    tokens = pad_tokens(tokens, config.num_register_tokens, 8)
    mosaic = {"mosaic_gpu"} if config == FUSED else set()
    check_rendering(config, tokens, precision, split, mosaic)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("attention", ["sliding_sink", "auto"])
def test_both_stages_of_a_rendering_of_the_second_generation(attention, precision):
    config = dataclasses.replace(VARIANTS["testing_v2"], view_independent_attention=attention)
    tokens = network_input(random_scene(700, config), config, None)
    check_rendering(config, tokens, precision, split=False)


def check_rendering(config, tokens, precision, split, more_of_first=frozenset()):
    """Lowers both stages and looks at the kernels that they call."""
    model, devices = RenderFormer(config, PRECISIONS[precision]), jax.devices()
    mesh = device_mesh(devices if split else devices[:1])
    variables = jax.eval_shape(
        lambda: cast_variables(init_variables(config, jax.random.key(0)), model.dtype)
    )
    first = functools.partial(encode, model, mesh=mesh)
    arguments = placed((variables, tokens), replicated(mesh))
    expected = set() if precision == "fp32" else {"__cudnn$fmha"}
    assert kernels(lowered(jax.jit(first), *arguments)) == expected | more_of_first

    mesh = device_mesh(devices)
    encoding = jax.eval_shape(first, variables, tokens)
    whole = jax.tree.map(lambda _: jax.sharding.PartitionSpec(), encoding)
    encoding = jax.tree.map(
        lambda x, spec: placed(x, jax.sharding.NamedSharding(mesh, spec)),
        encoding,
        encoding_specs(encoding) if split else whole,
    )
    cameras = jnp.zeros((1, 8, 4, 4)), jnp.zeros((1, 8))
    second = functools.partial(
        render, model, resolution=config.resolution_multiple, mesh=mesh, split=split
    )
    views = placed(cameras, jax.sharding.NamedSharding(mesh, BY_VIEW))
    text = lowered(jax.jit(second), placed(variables, replicated(mesh)), encoding, *views)
    assert kernels(text) == expected
