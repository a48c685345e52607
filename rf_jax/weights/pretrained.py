"""Reading weights of any kind: our checkpoints, Hugging Face folders, PyTorch's `.pt` files."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from rf_jax.attention import ATTENTIONS, parse_attention
from rf_jax.checksums import CHECKSUMS_NAME, verify_checksums, write_checksums
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path, file_size, remove_abandoned
from rf_jax.models import RenderFormerConfig
from rf_jax.trained_on import TrainedOn
from rf_jax.weights import convert
from rf_jax.weights.checkpoint import CONFIG_NAME, is_checkpoint, load_checkpoint, load_config_json
from rf_jax.weights.published_config import (
    CONFIG_NAMES,
    config_path,
    load_published_config,
    published_config_text,
)
from rf_jax.weights.torch_files import (
    read_pt,
    read_safetensors,
    resolve_model_folder,
    write_safetensors,
)

WEIGHTS_NAME = "model.safetensors"

NETWORK_FILES = (CONFIG_NAMES, WEIGHTS_NAME)
"""The files in a Hugging Face folder; the configuration has one of several names."""

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "assets" / "models" / "rooms"
"""A small network for the scenes of `configs/data_rooms.py`; README.md beside it describes it."""


class Pretrained(NamedTuple):
    """A network as it was read.

    Attributes:
      variables: the variables, as NumPy arrays in the types of the file.
      config: the network's configuration.
      values: the flat `config.json` it was read from, including the keys of other programs.
    """

    variables: dict[str, Any]
    config: RenderFormerConfig
    values: dict[str, Any]

    @property
    def trained_on(self) -> TrainedOn:
        """The images and scenes that the network was trained on."""
        return TrainedOn.from_config(self.values)


def load_pretrained(source: str | Path, model_config: str | Path | None = None) -> Pretrained:
    """Reads a network.

    Args:
      source: a checkpoint folder or training directory of ours, a Hugging Face folder
        (a configuration and `model.safetensors`), a hub id such as
        `microsoft/renderformer-v1-base` or `RenderFormer/renderformer-v2/transformer_512`, or a
        `.pt` file.
      model_config: the `config.json` for a `.pt` file, which does not hold one itself.

    Raises:
      InputError: something is missing or malformed, or weights and configuration do not fit.
    """
    path = Path(source)
    if path.suffix == ".pt":
        if model_config is None:
            raise InputError(f"{path}: a .pt file holds no configuration; give --model_config")
        tensors = read_pt(path)
        values = _implied_attention(tensors) | load_config_json(Path(model_config))
        config = _parse(values, model_config)
        with prefix_errors(str(path)):
            convert.check_size(config, file_size(path), may_hold_more=True)
            return Pretrained(convert.from_torch(tensors, config), config, values)
    if model_config is not None:
        raise InputError(f"--model_config belongs to .pt files; {source} has its own")
    if is_checkpoint(path):
        variables, values = load_checkpoint(path)
        config = _parse(values, path / CONFIG_NAME)
        with prefix_errors(str(path)):
            num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
            convert.check_size(config, num_bytes, may_hold_more=True)
            convert.check_leaves(traverse_util.flatten_dict(variables, sep="/"), config)
        return Pretrained(variables, config, values)
    folder = resolve_model_folder(source, NETWORK_FILES)
    values = load_published_config(config_path(folder))
    config, weights = _parse(values, config_path(folder)), folder / WEIGHTS_NAME
    with prefix_errors(str(weights)):
        convert.check_size(config, file_size(weights))
    verify_checksums(folder)
    tensors = read_safetensors(weights)
    with prefix_errors(str(weights)):
        return Pretrained(convert.from_torch(tensors, config), config, values)


def load_trained_on(source: str | Path) -> TrainedOn:
    """Reads what a network was trained on, without its weights.

    Args:
      source: as in `load_pretrained`, but no `.pt` file.

    Raises:
      InputError: there is no such network, or its `config.json` is malformed.
    """
    path = Path(source)
    if is_checkpoint(path):
        path /= CONFIG_NAME
        values = load_config_json(path)
    else:
        path = config_path(resolve_model_folder(source, NETWORK_FILES))
        values = load_published_config(path)
    with prefix_errors(str(path)):
        return TrainedOn.from_config(values)


def save_hugging_face_folder(
    folder: str | Path, variables: dict[str, Any], values: dict[str, Any]
) -> None:
    """Writes `model.safetensors` and its configuration as the PyTorch project reads them.

    That is a `config.json` for V1, and a `config.yaml` for V2.

    Args:
      folder: is made if it is missing; may hold such files, which are replaced. Each file appears
        whole or not at all.
      variables, values: those of a `Pretrained`.

    Raises:
      InputError: the variables do not fit the configuration, the folder holds a network in another
        form, or it cannot be written.
    """
    folder = Path(folder)
    if (folder / CONFIG_NAME).exists() and not (folder / WEIGHTS_NAME).exists():
        raise InputError(
            f"{folder}: holds the {CONFIG_NAME} of another network; choose another folder"
        )
    tensors = convert.to_torch(variables, _parse(values, CONFIG_NAME))
    remove_abandoned(folder)
    name, text = published_config_text(values)
    with atomic_path(folder / name) as path:
        path.write_text(text)
        for other in {CHECKSUMS_NAME, *CONFIG_NAMES} - {name}:
            (folder / other).unlink(missing_ok=True)
        write_safetensors(folder / WEIGHTS_NAME, tensors)
    write_checksums(folder, WEIGHTS_NAME)


def with_attention(
    variables: dict[str, Any], config: RenderFormerConfig, attention: str
) -> tuple[dict[str, Any], RenderFormerConfig]:
    """The same network with other attention functions.

    Args:
      variables, config: a network.
      attention: a name for both stages, or "first,second".

    Returns:
      variables and configuration. Variables of the new attention that are missing are drawn from a
      fixed key; constants that it does not need are left out.

    Raises:
      InputError: a name is unknown, or trained variables of the old attention would be lost.
    """
    first, second = parse_attention(attention)
    config = dataclasses.replace(
        config, view_independent_attention=first, view_dependent_attention=second
    )
    leaves = traverse_util.flatten_dict(variables, sep="/")
    expected = convert.variable_shapes(config)
    lost = [path for path in leaves.keys() - expected.keys() if path.startswith("params/")]
    if lost:
        raise InputError(
            f"attention: {attention} does not read the learned {', '.join(sorted(lost))}; "
            "use the attention that these weights were trained with"
        )
    leaves = {path: leaf for path, leaf in leaves.items() if path in expected}
    leaves |= convert.fresh_leaves(config, expected.keys() - leaves.keys())
    return traverse_util.unflatten_dict(leaves, sep="/"), config


def _implied_attention(tensors) -> dict[str, Any]:
    """The keys of the configuration that the tensors in a fork's file imply.

    Such files do not name their attention function, whose variables are in the view-independent
    stage.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for attention in ATTENTIONS.values():
        options = attention.recognize and attention.recognize(shapes)
        if options:
            values = dataclasses.replace(attention, options=options).option_values()
            values = dict(values.items() - attention.option_values().items())
            return values | {"view_independent_attention": attention.name}
    return {}


def _parse(values: dict[str, Any], path: str | Path) -> RenderFormerConfig:
    with prefix_errors(str(path)):
        TrainedOn.from_config(values)  # an error in it is one of this file
        return RenderFormerConfig.from_dict(values)


def num_parameters(variables: dict[str, Any]) -> int:
    """How many numbers the variables hold, including RoPE frequencies and other constants."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables))
