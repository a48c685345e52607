"""Configurations as Python files with `get_config()`, changed by `--config.KEY=VALUE`.

They are read into the dataclasses that describe them, and every value is checked.
"""

import dataclasses
import os
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from rf_jax import schema
from rf_jax.errors import InputError, one_line, prefix_errors
from rf_jax.files import check_file

Config = TypeVar("Config")

MAX_CONFIG_BYTES = 2**20
"""Largest configuration file that is run."""

CONFIGS = Path(__file__).parent / "configs"
"""The configurations of this package; in its repository, this is a link to the folder `configs`."""


def config_names() -> list[str]:
    """The names that `load_config_file` accepts beside paths."""
    return sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))


def load_config_file(cls: type[Config], path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
      cls: the dataclass that describes the configuration.
      path: a Python file with a function `get_config()` that returns a `ConfigDict`, or the name
        of a configuration of this package, such as "tiny".
      overrides: command-line arguments such as `--config.batch_size=8`, for any field that is a
        number, a string, a boolean or a tuple of these.

    Raises:
      InputError: there is no such file, it fails, a key is unknown, or a value has another type or
        is out of range.
    """
    values = _run(path)
    with prefix_errors(path):
        config = parse_config(cls, values)
        return parse_config(cls, _overridden(to_config_dict(config), overrides))


def parse_config(cls: type[Config], values: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks a configuration given as a `ConfigDict` or as plain values.

    Raises:
      InputError: names the key, what was expected and what was found.
    """
    values = values.to_dict() if isinstance(values, ConfigDict) else values
    return schema.parse(cls, values, "config")


def to_config_dict(config: Any) -> ConfigDict:
    """A dataclass as a locked `ConfigDict`; fields that are None keep their type for overrides."""
    return _config_dict(schema.to_dict(config), schema.flat_hints(type(config))).lock()


def _config_dict(values: dict[str, Any], hints: dict[str, Any]) -> ConfigDict:
    result = ConfigDict()
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            value = _config_dict(value, schema.flat_hints(hint))
        elif value is None:
            value = config_dict.placeholder(_scalar_type(get_args(hint)[0]))
        result[key] = value
    return result


def _run(path: str) -> Any:
    """What `get_config()` of a Python file returns."""
    file = str(CONFIGS / f"{path}.py") if path in config_names() else path
    if not os.path.isfile(file):
        raise InputError(
            f"{path}: no such configuration file, nor one of {', '.join(config_names())}"
        )
    check_file(file, MAX_CONFIG_BYTES)
    try:
        module = runpy.run_path(file)
        values = module["get_config"]() if "get_config" in module else None
        values = values.to_dict() if isinstance(values, ConfigDict) else values
    except (Exception, SystemExit) as error:  # a program may raise anything
        line = _last_line(error, file)
        where = path if line is None else f"{path}:{line}"
        message = error.msg if isinstance(error, SyntaxError) else error
        reason = one_line(f"{type(error).__name__}: {message}", 180)
        raise InputError(f"{where}: cannot be run ({reason})") from error
    if values is None:
        raise InputError(f"{path}: expected a function get_config() that returns a ConfigDict")
    return values


def _last_line(error: BaseException, path: str) -> int | None:
    """The line of the file at `path` that an error came from."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == path), None)


def _scalar_type(hint: Any) -> type:
    if get_origin(hint) is Annotated:
        return _scalar_type(get_args(hint)[0])
    return get_origin(hint) or hint


def _overridden(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    for override in overrides:
        _check_key(config, override)
    values = flags.FlagValues()
    arguments = ["", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    return values.config


def _check_key(config: ConfigDict, override: str) -> None:
    """Refuses an unknown key with the same message as one in a file."""
    where, values = "config", config
    for name in override.partition("=")[0].split(".")[1:]:
        key = name.partition("[")[0]
        if not isinstance(values, ConfigDict):
            return
        if key not in values:
            raise schema.unknown_key(key, values.keys(), where)
        where, values = f"{where}.{key}", values[key]
