"""The networks that prepare scenes for RenderFormer V2: their published files, and our folder.

These are three mappers from the parameters of a material to 9 numbers, and the encoder of the
Qwen-Image autoencoder. A folder of ours holds the four with one `config.json` for their sizes and
one `latent_encoders.safetensors` for their Flax leaves, in the types of the published files.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from rf_jax import schema
from rf_jax.checksums import CHECKSUMS_NAME, verify_checksums, write_checksums
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path, remove_abandoned
from rf_jax.models.material_mapper import CONFIGS, PARAMETERS, MapperConfig, MaterialMapper
from rf_jax.models.vae_encoder import NAME as VAE
from rf_jax.models.vae_encoder import VaeEncoder, VaeEncoderConfig
from rf_jax.weights.checkpoint import CONFIG_NAME, load_config_json
from rf_jax.weights.convert import check_arrays
from rf_jax.weights.torch_files import (
    MODEL_FILES,
    read_safetensors,
    resolve_model_folder,
    write_safetensors,
)

VAE_SOURCE = "Qwen/Qwen-Image/vae"
"""Where the autoencoder is on the Hugging Face hub."""

WEIGHTS_NAME = "latent_encoders.safetensors"

_VAE_FILES = (CONFIG_NAME, "diffusion_pytorch_model.safetensors")
_VAE_CLASS = "AutoencoderKLQwenImage"
_NOT_FOR_IMAGES = re.compile(r"(decoder|post_quant_conv)\..*|.*\.time_conv\.\w+")
"""Tensors of the published file that do not take part in the encoding of one image."""


class Network(NamedTuple):
    """A network with its variables, NumPy arrays in the types of the file."""

    module: nn.Module
    variables: dict[str, Any]


def read_published(mappers: str | Path, vae: str | Path) -> dict[str, Network]:
    """Reads the published files.

    Args:
      mappers: a local folder or a hub id with one folder for each mapper, such as
        "RenderFormer/renderformer-v2".
      vae: a local folder or a hub id of the autoencoder, such as `VAE_SOURCE`.

    Returns:
      the networks by name: those of `rf_jax.models.material_mapper.PARAMETERS`, and `VAE`.

    Raises:
      InputError: something is missing, is malformed, or does not fit its configuration.
    """
    networks = {name: _read_mapper(mappers, name) for name in PARAMETERS}
    folder = resolve_model_folder(vae, _VAE_FILES)
    values = load_config_json(folder / _VAE_FILES[0])
    with prefix_errors(str(folder / _VAE_FILES[0])):
        module = VaeEncoder(_vae_config(values))
    path = folder / _VAE_FILES[1]
    tensors = read_safetensors(path)
    kept = {k: v for k, v in tensors.items() if not _NOT_FOR_IMAGES.fullmatch(k)}
    with prefix_errors(str(path)):
        return networks | {VAE: Network(module, _from_torch(kept, VAE, module))}


def save_latent_encoders(folder: str | Path, networks: Mapping[str, Network]) -> None:
    """Writes a folder that `load_latent_encoders` reads; each file appears whole or not at all.

    Raises:
      InputError: the folder holds a network of another kind, or it cannot be written.
    """
    folder = Path(folder)
    if (folder / CONFIG_NAME).exists() and not (folder / WEIGHTS_NAME).exists():
        raise InputError(f"{folder}: holds another network; choose another folder")
    remove_abandoned(folder)
    leaves = {
        f"{name}/{path}": leaf
        for name, network in networks.items()
        for path, leaf in _flat(network.variables).items()
    }
    configs = {name: schema.to_dict(network.module.config) for name, network in networks.items()}
    with atomic_path(folder / CONFIG_NAME) as path:
        path.write_text(json.dumps(configs, indent=2) + "\n")
        (folder / CHECKSUMS_NAME).unlink(missing_ok=True)
        write_safetensors(folder / WEIGHTS_NAME, leaves)
    write_checksums(folder, WEIGHTS_NAME)


def load_latent_encoders(folder: str | Path) -> dict[str, Network]:
    """Reads a folder that `save_latent_encoders` wrote: the networks by name.

    Raises:
      InputError: the folder is none of these, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        raise InputError(
            f"{folder}: expected a folder with {WEIGHTS_NAME}; make one with "
            "rf-jax-convert --latent_encoders (docs/v2.md)"
        )
    values = load_config_json(folder / CONFIG_NAME)
    with prefix_errors(str(folder / CONFIG_NAME)):
        modules = _modules(values)
    verify_checksums(folder)
    leaves = read_safetensors(folder / WEIGHTS_NAME)
    shapes = {
        f"{name}/{path}": shape
        for name, module in modules.items()
        for path, shape in _leaf_shapes(name, module).items()
    }
    with prefix_errors(str(folder / WEIGHTS_NAME)):
        check_arrays(leaves, shapes)
    variables = traverse_util.unflatten_dict(leaves, sep="/")
    return {name: Network(module, {"params": variables[name]}) for name, module in modules.items()}


def random_networks(vae: VaeEncoderConfig, seed: int) -> dict[str, Network]:
    """The four networks with random weights, for tests and for trying the commands."""
    rng = np.random.default_rng(seed)
    modules = {name: MaterialMapper(config) for name, config in CONFIGS.items()}
    modules[VAE] = VaeEncoder(vae)

    def draw(path, shape):
        value = rng.standard_normal(shape, np.float32)
        if path.endswith("gamma"):
            return 1 + 0.1 * value
        return value * (0.1 if path.endswith("bias") else np.prod(shape[:-1]) ** -0.5)

    def variables(name):
        shapes = _leaf_shapes(name, modules[name])
        leaves = {path: draw(path, shape).astype(np.float32) for path, shape in shapes.items()}
        return {"params": traverse_util.unflatten_dict(leaves, sep="/")}

    return {name: Network(module, variables(name)) for name, module in modules.items()}


def _read_mapper(source: str | Path, name: str) -> Network:
    folder = resolve_model_folder(f"{source}/{name}")
    values = load_config_json(folder / CONFIG_NAME)
    with prefix_errors(str(folder / CONFIG_NAME)):
        module = MaterialMapper(schema.parse(MapperConfig, values))
    path = folder / MODEL_FILES[1]
    tensors = read_safetensors(path)
    with prefix_errors(str(path)):
        return Network(module, _from_torch(tensors, name, module))


def _vae_config(values: dict[str, Any]) -> VaeEncoderConfig:
    """The sizes in a published `config.json`, whose other keys concern videos and the decoder."""
    if (found := values.get("_class_name")) != _VAE_CLASS:
        raise InputError(f"_class_name: expected {_VAE_CLASS}, found {found!r}")
    if values.get("attn_scales") or values.get("input_channels", 3) != 3:
        raise InputError("expected no attn_scales and 3 input_channels, as published")
    known = {
        field: values[field] for field in VaeEncoderConfig.__dataclass_fields__.keys() & values
    }
    return schema.parse(VaeEncoderConfig, known)


def _modules(values: dict[str, Any]) -> dict[str, nn.Module]:
    expected = {*PARAMETERS, VAE}
    if values.keys() != expected:
        raise InputError(f"expected {', '.join(sorted(expected))}; convert the weights again")
    modules = {
        name: MaterialMapper(schema.parse(MapperConfig, values[name], name)) for name in PARAMETERS
    }
    return modules | {VAE: VaeEncoder(schema.parse(VaeEncoderConfig, values[VAE], VAE))}


def _leaf_shapes(name: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every Flax leaf; nothing is allocated."""
    side = module.config.reduction if name == VAE else None
    shape = (1, side, side, 3) if name == VAE else (1, PARAMETERS[name])
    variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape, np.float32))
    return {path: leaf.shape for path, leaf in _flat(variables).items()}


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables["params"], sep="/")


def _from_torch(tensors: Mapping[str, np.ndarray], name: str, module: nn.Module) -> dict[str, Any]:
    """Converts PyTorch tensors to Flax variables; they must be exactly those of the network."""
    shapes = _leaf_shapes(name, module)
    names = {path: _torch_name(path) for path in shapes}
    check_arrays(tensors, {names[path]: _torch_shape(path, shapes[path]) for path in shapes})
    leaves = {path: _to_flax(tensors[names[path]], shapes[path]) for path in shapes}
    return {"params": traverse_util.unflatten_dict(leaves, sep="/")}


def _torch_name(path: str) -> str:
    """encoder/down_blocks_3/conv1/kernel -> encoder.down_blocks.3.conv1.weight"""
    return re.sub(r"_(\d+)\b", r".\1", path).replace("/", ".").replace("kernel", "weight")


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the published tensor; all but those of images have a temporal axis."""
    image_only = "resample" in path or "attentions" in path
    if path.endswith("gamma"):
        return (*shape, 1, 1) if image_only else (*shape, 1, 1, 1)
    if len(shape) == 4:
        height, width, fan_in, out = shape
        return (out, fan_in, height, width) if image_only else (out, fan_in, height, height, width)
    return shape[::-1]


def _to_flax(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if tensor.ndim == 5:  # the last temporal slice is the one that a single image meets
        tensor = tensor[:, :, -1]
    if len(shape) == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif len(shape) == 2:
        tensor = tensor.T
    return np.ascontiguousarray(tensor.reshape(shape))
