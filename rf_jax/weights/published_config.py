"""The configuration in a Hugging Face folder, in any of the forms that it is published in.

config.json        V1: the flat object
config.yaml        V2: the flat object under `model_config`, beside those of trainer and data
model_config.json  V2, as its code saves a model: the flat object under `model_config`
"""

import json
from pathlib import Path
from typing import Any

import yaml

from rf_jax.errors import InputError, one_line
from rf_jax.files import read_bytes
from rf_jax.models.config_v2 import PE_TYPE
from rf_jax.weights.checkpoint import CONFIG_NAME, load_config_json

YAML_NAME, SAVED_NAME = "config.yaml", "model_config.json"

CONFIG_NAMES = (CONFIG_NAME, YAML_NAME, SAVED_NAME)

MAX_YAML_BYTES = 2**20
"""Largest configuration that is read; the published ones have a few kilobytes."""

_TRAINER = {"learn_ldr": False, "turn_to_cam_coord": False}
"""Keys of V2's `trainer_config` that change what a network computes, with the supported values."""


def config_path(folder: Path) -> Path:
    """The configuration in a folder that has one."""
    return next(folder / name for name in CONFIG_NAMES if (folder / name).exists())


def load_published_config(path: Path) -> dict[str, Any]:
    """Reads the flat object; its keys are not checked.

    Raises:
      InputError: the file is missing or malformed, or V2's trainer worked in camera space or on
        images in low dynamic range.
    """
    values = _load_yaml(path) if path.name == YAML_NAME else load_config_json(path)
    if path.name == CONFIG_NAME and "model_config" not in values:
        return values
    model = values.get("model_config")
    if not isinstance(model, dict):
        raise InputError(f"{path}: model_config: expected an object with the network's sizes")
    trainer = values.get("trainer_config") or {}
    for key, expected in _TRAINER.items():
        found = trainer.get(key, expected) if isinstance(trainer, dict) else None
        if found is not expected:
            raise InputError(
                f"{path}: trainer_config.{key}: this network computes {expected} only, "
                f"found {found!r}"
            )
    return model


def published_config_text(values: dict[str, Any]) -> tuple[str, str]:
    """The name and the text of the file that holds a flat configuration for PyTorch."""
    if values.get("pe_type") != PE_TYPE:
        return CONFIG_NAME, json.dumps(values, indent=2) + "\n"
    # V2's loader takes a config.json for V1.
    return YAML_NAME, yaml.safe_dump({"model_config": values, "trainer_config": _TRAINER})


def _load_yaml(path: Path) -> dict[str, Any]:
    data = read_bytes(path, MAX_YAML_BYTES)
    try:
        values = yaml.load(data, Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable YAML ({one_line(error, 200)})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a YAML mapping, found {type(values).__name__}")
    return values


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, by which a small file can stand for a huge one."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)
