"""PyTorch names and layouts to Flax and back."""

import dataclasses
import filecmp
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from rf_jax.attention.performer import PerformerOptions
from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.models import VARIANTS
from rf_jax.weights import convert
from rf_jax.weights.pretrained import with_attention
from rf_jax.weights.random_weights import random_variables

ROOT = Path(__file__).parents[2]
TINY = VARIANTS["testing"]
CONFIGS = {
    "full attention": TINY,
    "swin": dataclasses.replace(
        TINY, view_transformer_use_swin_attn=True, texture_encode_patch_size=1
    ),
    "nerf, gelu, layer norm, bias": dataclasses.replace(
        TINY,
        pe_type="nerf",
        activation="gelu",
        norm_type="layer_norm",
        texture_encoder_norm_type="layer_norm",
        vn_encoder_norm_type="layer_norm",
        bias=True,
        turn_to_cam_coord=False,
    ),
    "no decoder, alpha": dataclasses.replace(TINY, use_dpt_decoder=False, include_alpha=True),
    "bare": dataclasses.replace(
        TINY,
        use_ldr=True,
        use_vn_encoder=False,
        view_indep_qk_norm=False,
        qk_norm=False,
        view_transformer_include_self_attn=False,
    ),
    "performer": dataclasses.replace(
        TINY,
        view_independent_attention="performer",
        view_dependent_attention="performer",
        attention_options=(PerformerOptions(features=20, temperature=True),),
    ),
}


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.array_equal(x, y)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_round_trip_bit_for_bit(config):
    variables = random_variables(config, seed=0)
    tensors = convert.to_torch(variables, config)
    assert len(tensors) == len(convert.rules(config))
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    assert_trees_equal(convert.from_torch(tensors, config), variables)


def test_layouts():
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    leaves = convert.from_torch(tensors, TINY)["params"]
    qkv = tensors["transformer.layers.1.multihead_attn.in_proj.weight"]
    assert qkv.shape == (3 * 36, 36)
    stacked = leaves["view_independent"]["layers"]["attention"]["qkv"]["kernel"]
    assert np.array_equal(stacked[1], qkv.T)
    decoder = leaves["view_dependent"]["decoder"]
    conv = tensors["view_transformer.out_dpt.projects.0.weight"]
    assert np.array_equal(decoder["project0"]["kernel"], conv.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_types_are_kept(dtype):
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    variables = convert.from_torch(tensors, TINY)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(variables))
    back = convert.to_torch(variables, TINY)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


def test_names_that_do_not_fit_are_all_listed():
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    del tensors["tri_token"], tensors["reg_tokens"]
    tensors["surplus.weight"] = np.zeros(1)
    with pytest.raises(InputError) as error:
        convert.from_torch(tensors, TINY)
    message = str(error.value)
    assert "2 missing: reg_tokens, tri_token" in message
    assert "1 unexpected: surplus.weight" in message


def test_all_kinds_of_misfits_are_listed_together():
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    del tensors["tri_token"]
    tensors["surplus.weight"] = np.zeros(1)
    tensors["reg_tokens"] = np.zeros((3, 36))
    tensors["texture_encoder.bias"] = np.zeros(36, np.int32)
    with pytest.raises(InputError) as error:
        convert.from_torch(tensors, TINY)
    expected = (
        "1 missing: tri_token",
        "1 unexpected: surplus.weight",
        "1 misshaped: reg_tokens",
        "1 not floating-point: texture_encoder.bias: int32",
    )
    assert all(part in str(error.value) for part in expected), str(error.value)


def test_layers_of_different_types_are_not_rounded():
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    name = "transformer.layers.0.ffn.w1.weight"
    tensors[name] = tensors[name].astype(np.float16)
    with pytest.raises(InputError, match=r"layers\.1\.ffn\.w1\.weight: expected float16 .*float32"):
        convert.from_torch(tensors, TINY)


def test_shapes_that_do_not_fit_are_all_listed():
    tensors = convert.to_torch(random_variables(TINY, seed=0), TINY)
    tensors["tri_token"] = np.zeros((1, 1, 35))
    tensors["transformer.layers.0.ffn.w1.weight"] = np.zeros((36, 48))
    with pytest.raises(InputError) as error:
        convert.from_torch(tensors, TINY)
    message = str(error.value)
    assert "2 misshaped" in message
    assert "tri_token: expected (1, 1, 36), found (1, 1, 35)" in message
    assert "ffn.w1.weight: expected (48, 36), found (36, 48)" in message


def test_leaves_that_do_not_fit_are_listed():
    variables = random_variables(TINY, seed=0)
    del variables["params"]["view_independent"]["triangle_token"]
    variables["params"]["surplus"] = np.zeros(1)
    with pytest.raises(
        InputError, match=r"missing: .*triangle_token; .*unexpected: params/surplus"
    ):
        convert.to_torch(variables, TINY)


def test_other_attention_draws_projections_and_leaves_them_out():
    variables = random_variables(TINY, seed=0)
    drawn, config = with_attention(variables, TINY, "performer,dot_product")
    assert config.view_independent_attention == "performer"
    attention = drawn["constants"]["view_independent"]["layers"]["attention"]
    assert attention["performer"]["projection"].shape == (2, int(36 * np.log(36)), 36)
    back, config = with_attention(drawn, config, "auto")
    assert config == TINY
    assert_trees_equal(back, variables)


def test_a_learned_temperature_is_not_dropped():
    config = CONFIGS["performer"]
    with pytest.raises(InputError, match=r"does not read the learned .*temperature"):
        with_attention(random_variables(config, seed=0), config, "dot_product")


def run(*command) -> str:
    command = [sys.executable, *map(str, command)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


LARGE = pytest.mark.skipif(
    "RF_JAX_FULL_SIZE" not in os.environ, reason="takes three minutes; set RF_JAX_FULL_SIZE=1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "count"),
    [("v1_base", 205_173_391), pytest.param("v1.1_large_swin", 483_269_903, marks=LARGE)],
)
def test_published_sizes_convert_render_and_convert_back(variant, count, tmp_path):
    source, converted, back = (tmp_path / name for name in ("torch", "flax", "back"))
    run("-m", "rf_jax.weights.random_weights", source, "--variant", variant)
    assert f"{count:,} parameters" in run("convert_weights.py", source, converted)
    run("convert_weights.py", "--to_torch", converted, back)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert peak < 8  # GiB
    for name in ("model.safetensors", "config.json"):
        assert filecmp.cmp(source / name, back / name, shallow=False)
    shutil.rmtree(source)
    shutil.rmtree(back)
    images = tmp_path / "images"
    options = ("--checkpoint", converted, "--output_dir", images, "--resolution", 64)
    run("render.py", "blue_room", *options)
    image = load_exr(images / "blue_room_view_0.exr")
    assert image.shape == (64, 64, 3) and image.std() > 0
    shutil.rmtree(tmp_path)
