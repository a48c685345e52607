"""Checkpoints of our own: an Orbax folder of variables with the model's `config.json` beside it.

Training directories have that `config.json` too, and such folders in `checkpoints/STEP/`.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import read_json

CONFIG_NAME = "config.json"
VARIABLES_NAME = "variables"
CHECKPOINTS_NAME = "checkpoints"
"""Folder of a training directory; it has one folder a step, which appears whole or not at all."""


def load_config_json(path: Path) -> dict[str, Any]:
    """Reads a `config.json`; a missing or malformed file is an InputError."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def is_checkpoint(folder: Path) -> bool:
    """Whether `load_checkpoint` reads the folder: a checkpoint or a training directory."""
    has_weights = (folder / VARIABLES_NAME).is_dir() or (folder / CHECKPOINTS_NAME).is_dir()
    return has_weights and (folder / CONFIG_NAME).is_file()


def _variables_folder(folder: Path) -> Path:
    """That of a checkpoint, or of the last step of a training directory."""
    if not (folder / CHECKPOINTS_NAME).is_dir():
        return folder / VARIABLES_NAME
    steps = [int(p.name) for p in (folder / CHECKPOINTS_NAME).iterdir() if p.name.isdigit()]
    if not steps:
        raise InputError(f"{folder}: a training directory without a checkpoint yet; try later")
    return folder / CHECKPOINTS_NAME / str(max(steps)) / VARIABLES_NAME


def save_checkpoint(folder: Path, variables: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Writes variables and the flat configuration; the folder appears whole or not at all.

    Raises:
      InputError: the folder exists and is no checkpoint, or cannot be written.
    """
    replaceable = is_checkpoint(folder) and not (folder / CHECKPOINTS_NAME).exists()
    try:
        if folder.exists() and not replaceable and any(folder.iterdir()):
            raise InputError(
                f"{folder}: exists and is not a checkpoint of this kind; choose another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}."
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True
        ) as temporary:
            whole = Path(temporary) / "checkpoint"
            whole.mkdir()
            (whole / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save((whole / VARIABLES_NAME).resolve(), dict(variables))
            _replace_folder(folder, whole, Path(temporary) / "replaced")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # TensorStore's are ValueErrors
        raise InputError(f"{folder}: cannot be written ({_reason(error)})") from error


def _replace_folder(folder: Path, new: Path, old: Path) -> None:
    """Renames `new` to `folder`; what was there goes to `old`, or comes back on an error."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables (NumPy) and the flat configuration of `save_checkpoint`, or of a training run.

    Raises:
      InputError: missing, truncated or otherwise unreadable.
    """
    config = load_config_json(folder / CONFIG_NAME)
    variables_folder = _variables_folder(folder)
    with prefix_errors(str(folder)):
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                path = variables_folder.resolve()
                # NumPy targets; by default arrays go to the devices that they were saved from.
                target = jax.tree.map(_empty, dict(checkpointer.metadata(path).item_metadata))
                variables = checkpointer.restore(path, target)
        except Exception as error:  # of Orbax, TensorStore or the file system, in many types
            raise InputError(
                f"expected a whole Orbax checkpoint, found: {_reason(error)}"
            ) from error
    return variables, config


def _empty(metadata: Any) -> np.ndarray:
    """An array of that shape and type that takes no memory."""
    return np.broadcast_to(np.zeros((), metadata.dtype), metadata.shape)


def _reason(error: Exception) -> str:
    """One line; of TensorStore's long messages the cause, which precedes the [name='details']."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.split(r" \[\w+='", text)[0]
    return text if len(text) <= 200 else "..." + text[-200:]
