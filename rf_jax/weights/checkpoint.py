"""Checkpoints of our own: an Orbax folder of variables, with the network's `config.json` beside it.

A training directory has such a `config.json` too, and one such folder of variables in each
`checkpoints/STEP/`.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rf_jax.checksums import verify_checksums, write_checksums
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import read_json, remove_abandoned, temporary_folder, utf8_path

CONFIG_NAME = "config.json"
VARIABLES_NAME = "variables"
CHECKPOINTS_NAME = "checkpoints"
"""Folder within a training directory; it has one folder per saved step, which appears whole or not
at all."""


def load_config_json(path: Path) -> dict[str, Any]:
    """Reads a `config.json` without checking its keys.

    Raises:
      InputError: the file is missing, or does not hold a JSON object.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder is one for `load_checkpoint`: a checkpoint or a training directory."""
    # These functions, unlike Path's, answer no for a name that is too long
    has_weights = any(os.path.isdir(folder / name) for name in (VARIABLES_NAME, CHECKPOINTS_NAME))
    return has_weights and os.path.isfile(folder / CONFIG_NAME)


def _variables_folder(folder: Path) -> Path:
    """The folder of variables of a checkpoint, or of the last step of a training directory."""
    if not (folder / CHECKPOINTS_NAME).is_dir():
        return folder / VARIABLES_NAME
    steps = [int(p.name) for p in (folder / CHECKPOINTS_NAME).iterdir() if p.name.isdigit()]
    if not steps:
        raise InputError(f"{folder}: a training directory without a checkpoint yet; try later")
    return folder / CHECKPOINTS_NAME / str(max(steps)) / VARIABLES_NAME


def save_checkpoint(folder: Path, variables: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Writes a checkpoint; the folder appears whole or not at all.

    Args:
      folder: may be an older checkpoint, which is replaced.
      variables: the network's variables.
      config: its flat configuration.

    Raises:
      InputError: the folder has files in it and is not a checkpoint, or it cannot be written.
    """
    replaceable = is_checkpoint(folder) and not (folder / CHECKPOINTS_NAME).exists()
    try:
        if folder.exists() and not replaceable and any(folder.iterdir()):
            raise InputError(
                f"{folder}: exists and is not a checkpoint of this kind; choose another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent)
        with temporary_folder(folder) as temporary:
            whole = temporary / "checkpoint"
            whole.mkdir()
            (whole / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(utf8_path(whole / VARIABLES_NAME), dict(variables))
            write_checksums(whole / VARIABLES_NAME)
            _replace_folder(folder, whole, temporary / "replaced")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # the errors of TensorStore are ValueErrors
        raise InputError(f"{folder}: cannot be written ({reason_in_one_line(error)})") from error


def _replace_folder(folder: Path, new: Path, old: Path) -> None:
    """Renames `new` to `folder`; what was there moves to `old`, and back again on an error."""
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
    """Reads a checkpoint, or the last step of a training directory.

    Returns:
      variables, as NumPy arrays, and the flat configuration, unchecked.

    Raises:
      InputError: the checkpoint is missing, truncated or otherwise damaged.
    """
    config = load_config_json(folder / CONFIG_NAME)
    variables_folder = _variables_folder(folder)
    while True:
        try:
            return _load_variables(folder, variables_folder), config
        except InputError:
            # A run that is still going may have removed this step, after it saved another one.
            newer = _variables_folder(folder)
            if newer == variables_folder:
                raise
            variables_folder = newer


def _load_variables(folder: Path, variables_folder: Path) -> dict[str, Any]:
    verify_checksums(variables_folder)
    with prefix_errors(str(folder)):
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                path = utf8_path(variables_folder)
                # By default arrays would go to the devices that they were saved from.
                target = jax.tree.map(_empty, dict(checkpointer.metadata(path).item_metadata))
                _check_size(target, variables_folder)
                return checkpointer.restore(path, target)
        except Exception as error:  # Orbax, TensorStore and the file system raise many types
            raise InputError(
                f"expected a whole Orbax checkpoint, found: {reason_in_one_line(error)}"
            ) from error


def _check_size(target: dict[str, Any], folder: Path) -> None:
    """Refuses arrays far larger than their files: Orbax makes up zeros for files that are missing.

    Weights hardly compress; only small networks may hold zeros and little else.
    """
    declared = sum(leaf.nbytes for leaf in jax.tree.leaves(target))
    stored = sum(path.stat().st_size for path in folder.rglob("*"))
    if declared > max(100 * stored, 2**28):
        raise InputError(f"arrays of {declared:,} bytes, of which {stored:,} are stored")


def _empty(metadata: Any) -> np.ndarray:
    """An array of the shape and type of a leaf, which takes no memory."""
    return np.broadcast_to(np.zeros((), metadata.dtype), metadata.shape)


def reason_in_one_line(error: Exception) -> str:
    """The message of an error in one line.

    Of the long messages of TensorStore it keeps the cause, which follows the names of files and
    precedes the [name='details'].
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.split(r" \[\w+='", text)[0].rpartition('": ')[2]
    return text if len(text) <= 200 else "..." + text[-200:]
