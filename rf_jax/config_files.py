"""Configurations in Python files, `get_config()` and `--config.KEY=VALUE`, become dataclasses."""

import dataclasses
import runpy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from rf_jax import schema
from rf_jax.errors import InputError, prefix_errors

Config = TypeVar("Config")


def load_config_file(cls: type[Config], path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
      cls: the dataclass that describes the configuration.
      path: a Python file with `get_config()`, which returns a `ConfigDict`.
      overrides: such as `--config.batch_size=8`, of any field that is a number, a string, a boolean
        or a tuple of these.

    Raises:
      InputError: no such file, an unknown key, a value of another type or out of range.
    """
    try:
        values = runpy.run_path(path)["get_config"]()
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file; there are configs/*.py") from None
    except KeyError as error:
        raise InputError(f"{path}: expected a function get_config()") from error
    except Exception as error:  # it is a program, and may do anything
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    with prefix_errors(path):
        config = parse_config(cls, values)
        return parse_config(cls, _overridden(to_config_dict(config), overrides))


def parse_config(cls: type[Config], values: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks a configuration given as a `ConfigDict` or as plain values.

    Raises:
      InputError: names the key, what was expected and what was found.
    """
    values = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    return schema.parse(cls, values, "config")


def to_config_dict(config: Any) -> ConfigDict:
    """A dataclass as a locked `ConfigDict`; fields that are None keep their type for overrides."""
    return _config_dict(schema.to_dict(config), schema.flat_hints(type(config))).lock()


def _config_dict(values: dict[str, Any], hints: dict[str, Any]) -> ConfigDict:
    result = ConfigDict()
    for key, value in values.items():
        hint = hints.get(key)
        if dataclasses.is_dataclass(hint):
            value = _config_dict(value, schema.flat_hints(hint))
        elif value is None:
            value = config_dict.placeholder(_scalar_type(get_args(hint)[0]))
        result[key] = value
    return result


def _scalar_type(hint: Any) -> type:
    if get_origin(hint) is Annotated:
        return _scalar_type(get_args(hint)[0])
    return get_origin(hint) or hint


def _overridden(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    arguments = ["", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (AttributeError, KeyError) as error:
        raise InputError(f"unknown key {error.args[0]}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return values.config
