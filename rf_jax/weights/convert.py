"""Strict conversion between the PyTorch project's weights and this network's variables, both ways.

A `Rule` ties one PyTorch tensor to one leaf of the Flax variables, or to one layer of a leaf,
because transformer layers are stacked along a leading axis. The rules follow from the
configuration, and a file must hold exactly the tensors that they name.
"""

import functools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rf_jax.attention import Attention
from rf_jax.errors import InputError, listed
from rf_jax.models import RenderFormerConfig, init_variables
from rf_jax.structs import NUM_CHANNELS
from rf_jax.weights.convert_v2 import embedding_rules_v2
from rf_jax.weights.rules import (
    CONV,
    CONV_TRANSPOSE,
    SAME,
    Rule,
    conv_rules,
    linear_rules,
    norm_rules,
)


def rules(config: RenderFormerConfig) -> list[Rule]:
    """The rules for all tensors of a network."""
    return [*_view_independent_rules(config), *_view_dependent_rules(config)]


@functools.cache
def variable_shapes(config: RenderFormerConfig) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every Flax leaf of a network, without allocating any."""
    leaves = jax.eval_shape(lambda rng: _initialize(config, rng), jax.random.key(0))
    return {path: leaf.shape for path, leaf in leaves.items()}


def least_parameters(config: RenderFormerConfig) -> int:
    """A lower bound of the number of parameters, from the sizes of the largest tensors.

    Unlike `variable_shapes` it costs nothing, whatever sizes a configuration asks for.
    """
    first, second = config.view_independent, config.view_dependent
    layers = sum(
        stage.depth * (4 * stage.width**2 + 2 * stage.width * stage.hidden_dim)
        for stage in (first, second)
    )
    channels = NUM_CHANNELS if config.v2 is None else config.v2.texture_channels
    texture = channels * config.texture_encode_patch_size**2 + config.num_register_tokens
    encoders = 18 * config.vn_pe_num_freqs if config.use_vn_encoder else 0
    pixels = config.patch_size**2 * second.width
    decoder = 0
    if config.use_dpt_decoder:
        levels = sum(config.dpt_out_channels) * (second.width + 9 * config.dpt_features)
        decoder = 60 * config.dpt_features**2 + levels
    return layers + (texture + encoders) * first.width + pixels + decoder


def check_size(config: RenderFormerConfig, num_bytes: int, may_hold_more: bool = False) -> None:
    """Checks that a file of `num_bytes` can hold a network, before either is made or read.

    Args:
      config: the network.
      num_bytes: size of the file.
      may_hold_more: whether the file may hold other tensors too, an optimizer's for example.

    Raises:
      InputError: the sizes do not fit.
    """
    least = least_parameters(config)
    if least > num_bytes:
        raise InputError(
            f"the sizes in config.json ask for {least:,} parameters or more, which the weights' "
            f"{num_bytes:,} bytes cannot hold; the file is cut short, or of another network"
        )
    # Float64, and a long header
    most = 8 * sum(map(math.prod, variable_shapes(config).values())) + 2**27
    if num_bytes > most and not may_hold_more:
        raise InputError(
            f"expected at most {most:,} bytes for the sizes in config.json, found {num_bytes:,}; "
            "the file is of another network"
        )


def fresh_leaves(config: RenderFormerConfig, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Freshly initialized leaves (path -> array) of a network; only those at `paths` are made."""

    @jax.jit
    def initialize(rng):
        leaves = _initialize(config, rng)
        return {path: leaves[path] for path in paths}

    return {path: np.asarray(leaf) for path, leaf in initialize(jax.random.key(0)).items()}


def _initialize(config, rng):
    return traverse_util.flatten_dict(init_variables(config, rng), sep="/")


def from_torch(tensors: Mapping[str, np.ndarray], config: RenderFormerConfig) -> dict[str, Any]:
    """Converts a PyTorch state dict to Flax variables, and keeps the types of the tensors.

    Raises:
      InputError: the tensors do not fit the configuration; the message counts the missing,
        unexpected and misshaped tensors and those of a wrong type, and names the first.
    """
    expected, shapes = rules(config), variable_shapes(config)
    check_arrays(tensors, {rule.torch_name: _torch_shape(rule, shapes) for rule in expected})
    leaves: dict[str, np.ndarray] = {}
    for rule in expected:
        value = rule.transform[0](np.asarray(tensors[rule.torch_name]))
        if rule.layer is None:
            leaves[rule.path] = np.ascontiguousarray(value)
            continue
        if rule.layer == 0:
            leaves[rule.path] = np.empty(shapes[rule.path], value.dtype)
        leaf = leaves[rule.path]
        if leaf.dtype != value.dtype:
            raise InputError(
                f"{rule.torch_name}: expected {leaf.dtype} as in the layers before, "
                f"found {value.dtype}"
            )
        leaf[rule.layer] = value
    return traverse_util.unflatten_dict(leaves, sep="/")


def to_torch(variables: Mapping[str, Any], config: RenderFormerConfig) -> dict[str, np.ndarray]:
    """Converts Flax variables to a PyTorch state dict; the inverse of `from_torch`, bit for bit.

    Raises:
      InputError: the variables do not fit the configuration, as in `check_leaves`.
    """
    leaves = traverse_util.flatten_dict(dict(variables), sep="/")
    check_leaves(leaves, config)
    tensors = {}
    for rule in rules(config):
        leaf = np.asarray(leaves[rule.path])
        leaf = leaf if rule.layer is None else leaf[rule.layer]
        tensors[rule.torch_name] = np.ascontiguousarray(rule.transform[1](leaf))
    return tensors


def check_leaves(leaves: Mapping[str, Any], config: RenderFormerConfig) -> None:
    """Checks that leaves (path -> array) are those of a network.

    Raises:
      InputError: they are not; the message counts the missing, unexpected and misshaped leaves and
        those of a wrong type, and names the first.
    """
    check_arrays(leaves, variable_shapes(config))


def _view_independent_rules(config: RenderFormerConfig) -> Iterator[Rule]:
    flax = "params/view_independent"
    if config.v2 is None:
        yield from _embedding_rules(config, flax)
    else:
        yield from embedding_rules_v2(config, f"{flax}/embedding")
    if config.pe_type != "nerf":
        path = "constants/view_independent/rope_frequencies"
        yield Rule("transformer.rope_emb.freqs", path, None, SAME)
    stage = config.view_independent
    for i in range(stage.depth):
        torch, layers = f"transformer.layers.{i}", f"{flax}/layers"
        yield from norm_rules(
            f"{torch}.query_norm", f"{layers}/attention_norm", config.norm_type, i
        )
        attention = f"{torch}.multihead_attn", f"{layers}/attention"
        yield from _self_attention(*attention, stage, i)
        yield from _attention_variables(*attention, stage.attention, config, i)
        yield from _feed_forward(torch, layers, config, i)


def _embedding_rules(config: RenderFormerConfig, flax: str) -> Iterator[Rule]:
    yield Rule("tri_token", f"{flax}/triangle_token", None, SAME)
    yield Rule("reg_tokens", f"{flax}/register_tokens", None, SAME)
    yield from linear_rules("texture_encoder", f"{flax}/texture_encoder", True)
    yield from norm_rules(
        "texture_encoder_norm", f"{flax}/texture_encoder_norm", config.texture_encoder_norm_type
    )
    encoders = []
    if config.use_vn_encoder:
        encoders.append(("vn_encoding_proj", "vn_encoder_norm", "vertex_normal_encoder"))
    if config.pe_type == "nerf":
        encoders.append(("tri_encoding_proj", "tri_encoding_norm", "position_encoder"))
    for linear, norm, name in encoders:
        yield from linear_rules(linear, f"{flax}/{name}", True)
        yield from norm_rules(norm, f"{flax}/{name}_norm", config.vn_encoder_norm_type)


def _view_dependent_rules(config: RenderFormerConfig) -> Iterator[Rule]:
    torch, flax = "view_transformer", "params/view_dependent"
    yield Rule(f"{torch}.ray_map_patch_token", f"{flax}/ray_token", None, SAME)
    encoders = [("ray_map_encoder", "ray_map_encoder_norm", "ray_encoder")]
    if config.pe_type == "nerf":
        encoders.append(("pe_token_proj", "token_pos_pe_norm", "position_encoder"))
    for linear, norm, name in encoders:
        yield from linear_rules(f"{torch}.{linear}", f"{flax}/{name}", True)
        yield from norm_rules(f"{torch}.{norm}", f"{flax}/{name}_norm", config.norm_type)
    if config.pe_type != "nerf":
        path = "constants/view_dependent/rope_frequencies"
        yield Rule(f"{torch}.transformer.rope_emb.freqs", path, None, SAME)
    for i in range(config.view_transformer_n_layers):
        yield from _decoder_layer(f"{torch}.transformer.layers.{i}", flax, config, i)
    if config.use_dpt_decoder:
        yield from _dpt(f"{torch}.out_dpt", f"{flax}/decoder")
    else:
        yield from linear_rules(f"{torch}.out_proj", f"{flax}/decoder", True)


def _decoder_layer(torch, flax, config, i) -> Iterator[Rule]:
    stage, bias = config.view_dependent, config.bias
    qk_norm = stage.qk_norm_type
    layers, context = f"{flax}/layers", f"{flax}/context"
    cross = f"{torch}.multihead_attn"
    yield from norm_rules(
        f"{torch}.query_norm", f"{layers}/cross_attention_norm", config.norm_type, i
    )
    yield from norm_rules(f"{torch}.kv_norm", f"{context}/norm", config.norm_type, i)
    yield from linear_rules(f"{cross}.q_proj", f"{layers}/cross_attention/q_proj", bias, i)
    yield from norm_rules(f"{cross}.q_norm", f"{layers}/cross_attention/q_norm", qk_norm, i)
    yield from linear_rules(f"{cross}.k_proj", f"{context}/k_proj", bias, i)
    yield from norm_rules(f"{cross}.k_norm", f"{context}/k_norm", qk_norm, i)
    yield from linear_rules(f"{cross}.v_proj", f"{context}/v_proj", bias, i)
    yield from linear_rules(f"{cross}.out_proj", f"{layers}/cross_attention/out", bias, i)
    path = f"{layers}/cross_attention"
    yield from _attention_variables(cross, path, stage.attention, config, i)
    if config.view_transformer_include_self_attn:
        norm = f"{layers}/self_attention_norm"
        yield from norm_rules(f"{torch}.self_attn_norm", norm, config.norm_type, i)
        attention = f"{torch}.self_attn", f"{layers}/self_attention"
        yield from _self_attention(*attention, stage, i)
        yield from _attention_variables(*attention, stage.attention, config, i)
    yield from _feed_forward(torch, layers, config, i)


def _self_attention(torch, flax, stage, i) -> Iterator[Rule]:
    yield from linear_rules(f"{torch}.in_proj", f"{flax}/qkv", stage.use_bias, i)
    yield from norm_rules(f"{torch}.q_norm", f"{flax}/q_norm", stage.qk_norm_type, i)
    yield from norm_rules(f"{torch}.k_norm", f"{flax}/k_norm", stage.qk_norm_type, i)
    yield from linear_rules(f"{torch}.out_proj", f"{flax}/out", stage.use_bias, i)


def _feed_forward(torch, flax, config, i) -> Iterator[Rule]:
    yield from norm_rules(f"{torch}.ffn_norm", f"{flax}/ffn_norm", config.norm_type, i)
    for name in ("w1", "w2", "w3") if config.activation == "swiglu" else ("w1", "w2"):
        yield from linear_rules(f"{torch}.ffn.{name}", f"{flax}/ffn/{name}", config.bias, i)


def _dpt(torch, flax) -> Iterator[Rule]:
    for i in range(4):
        yield from conv_rules(f"{torch}.projects.{i}", f"{flax}/project{i}")
        scratch = f"{torch}.scratch"
        yield from conv_rules(f"{scratch}.layer{i + 1}_rn", f"{flax}/level{i}", has_bias=False)
        torch_fusion, fusion = f"{scratch}.refinenet{i + 1}", f"{flax}/fusion{i}"
        yield from conv_rules(f"{torch_fusion}.out_conv", f"{fusion}/out")
        units = {"resConvUnit1": "level_unit", "resConvUnit2": "unit"}
        if i == 3:
            del units["resConvUnit1"]
        for torch_unit, unit in units.items():
            for conv in ("conv1", "conv2"):
                yield from conv_rules(
                    f"{torch_fusion}.{torch_unit}.{conv}", f"{fusion}/{unit}/{conv}"
                )
    for i, transform in ((0, CONV_TRANSPOSE), (1, CONV_TRANSPOSE), (3, CONV)):
        yield from conv_rules(f"{torch}.resize_layers.{i}", f"{flax}/resample{i}", True, transform)
    heads = {"output_conv1": "head1", "output_conv2.0": "head2", "output_conv2.2": "head3"}
    for torch_head, head in heads.items():
        yield from conv_rules(f"{torch}.scratch.{torch_head}", f"{flax}/{head}")


def _attention_variables(torch, flax, attention: Attention, config, layer) -> Iterator[Rule]:
    """The rules for the variables of an attention function, if it has any."""
    for collection in ("params", "constants"):
        prefix = f"{flax.replace('params', collection, 1)}/{attention.name}/"
        for path in variable_shapes(config):
            if path.startswith(prefix):
                variable = path.removeprefix(prefix)
                default = f"{attention.name}.{variable.replace('/', '.')}"
                name = attention.torch_names.get(variable, default)
                yield Rule(f"{torch}.{name}", path, layer, SAME)


def _torch_shape(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    shape = shapes[rule.path] if rule.layer is None else shapes[rule.path][1:]
    return rule.transform[1](np.broadcast_to(np.float32(0), shape)).shape


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises one error for all that is wrong with arrays (name -> array).

    Args:
      arrays: what was found.
      expected: the names and shapes that they should have.

    Raises:
      InputError: counts what is missing, unexpected, misshaped or of a wrong type.
    """
    problems = {
        "missing": sorted(expected.keys() - arrays.keys()),
        "unexpected": sorted(arrays.keys() - expected.keys()),
        "misshaped": [
            f"{name}: expected {shape}, found {tuple(arrays[name].shape)}"
            for name, shape in expected.items()
            if name in arrays and tuple(arrays[name].shape) != shape
        ],
        "not floating-point": [
            f"{name}: {arrays[name].dtype}"
            for name in expected
            if name in arrays and not jnp.issubdtype(arrays[name].dtype, jnp.floating)
        ],
    }
    text = "; ".join(
        f"{len(names)} {kind}: {listed(names, 50)}" for kind, names in problems.items() if names
    )
    if text:
        raise InputError(f"the weights do not fit the configuration: {text}")
