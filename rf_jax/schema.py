"""The one strict reader of dataclasses: decoded JSON and configurations become typed fields.

The annotation of a field is its schema. It may be int, float, str, bool, a `Literal`, a `tuple`, a
`dict` with string keys, another dataclass, `X | None`, or `Annotated[X, Limit(...)]` for a range.
Unknown keys, missing keys and values of another type are errors that name the path of the field.

A dataclass whose keys are not its fields (see `rf_jax.models.config`) has the methods `from_dict`,
`to_flat` and `flat_hints`, and this module calls these instead.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import types
from collections.abc import Callable, Collection, Iterator
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from rf_jax.errors import InputError

FLOAT32_MAX = 3.4028235e38
"""Largest finite float32, and so the largest number that a file may hold."""

_NOUNS = {float: "a number", int: "an integer", str: "a string", bool: "true or false"}


class Limit(NamedTuple):
    """A condition on a parsed value.

    Attributes:
      text: the condition in words that follow the type: ">= 1" in "expected an integer >= 1".
      holds: whether a parsed value meets the condition.
    """

    text: str
    holds: Callable[[Any], bool]


Positive = Annotated[int, Limit(">= 1", lambda x: x >= 1)]
NonNegativeInt = Annotated[int, Limit(">= 0", lambda x: x >= 0)]
NonNegative = Annotated[float, Limit(">= 0", lambda x: x >= 0)]
Fraction = Annotated[float, Limit("in [0, 1]", lambda x: 0 <= x <= 1)]
Seed = Annotated[int, Limit("in [0, 2^32 - 1]", lambda x: 0 <= x < 2**32)]
# A size in a network; a larger one is a mistake, which is better reported than allocated.
Size = Annotated[int, Limit("in [1, 65536]", lambda x: 1 <= x <= 2**16)]
LayerCount = Annotated[int, Limit("in [1, 16]", lambda x: 1 <= x <= 16)]
Count = Annotated[int, Limit("in [0, 65536]", lambda x: 0 <= x <= 2**16)]


def parse(hint: Any, value: Any, where: str = "") -> Any:
    """Checks a decoded JSON or configuration value against a type, and converts it.

    Args:
      hint: a type, written as in the annotation of a field.
      value: a number, string, boolean, None, list, tuple or dictionary.
      where: path of `value`, which messages begin with.

    Returns:
      the converted value: a dataclass for a dictionary, a tuple for a list, a float where a float
        is expected and an integer was given.

    Raises:
      InputError: names the path, what was expected and what was found.
    """
    kind, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(hint, value, where)
    if kind is Annotated:
        return _parse_limited(*args, value, where)
    if kind is dict:
        return _parse_mapping(args[1], value, where)
    if kind is tuple:
        return _parse_sequence(args, value, where)
    if kind is Literal:
        if value not in args:
            _fail(where, "one of " + ", ".join(map(json.dumps, args)), value)
        return value
    if kind in (Union, types.UnionType):
        (hint,) = (arg for arg in args if arg is not type(None))
        return None if value is None else parse(hint, value, where)
    return _parse_scalar(hint, value, where)


def parse_python(hint: Any, value: Any, where: str = "") -> Any:
    """`parse` for what Python code gives.

    NumPy's numbers and arrays count as numbers and lists, and one number stands for a vector of
    equal numbers.
    """
    value = _without_numpy(value)
    if get_origin(hint) is tuple and _is_scalar(float, value):
        value = (value,) * len(get_args(hint))
    return parse(hint, value, where)


def check_fields(instance: Any) -> None:
    """Checks the fields of a dataclass that was made in Python; its `__post_init__` may call this.

    Fields that are dataclasses are left out, because they check themselves.

    Raises:
      InputError: as `parse`.
    """
    for name, hint in get_type_hints(type(instance), include_extras=True).items():
        value = getattr(instance, name)
        if not dataclasses.is_dataclass(hint):
            parse(hint, value, name)


def unknown_key(key: str, known: Collection[str], where: str = "") -> InputError:
    """Makes the error for a key that is not in `known`.

    The message suggests the nearest known key if one is near, and otherwise lists all of them.
    """
    close = difflib.get_close_matches(str(key), known, n=1)
    advice = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
    return InputError(f"{_join(where, key)}: unknown key; {advice}")


def to_dict(instance: Any) -> dict[str, Any]:
    """A dataclass as the dictionary that `parse` reads back."""
    if hasattr(instance, "to_flat"):
        return instance.to_flat()
    return {f.name: _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}


def flat_hints(cls: type) -> dict[str, Any]:
    """The annotation of each key in the dictionary form of a dataclass."""
    if hasattr(cls, "flat_hints"):
        return cls.flat_hints()
    return get_type_hints(cls, include_extras=True)


def _without_numpy(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_without_numpy(item) for item in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _parse_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _fail(where, "a JSON object", value)
    if hasattr(cls, "from_dict"):
        with _located(where):
            return cls.from_dict(value)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            raise unknown_key(key, fields, where)
    for key, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and key not in value:
            raise InputError(f"{_join(where, key)}: missing key")
    hints = get_type_hints(cls, include_extras=True)
    parsed = {key: parse(hints[key], item, _join(where, key)) for key, item in value.items()}
    with _located(where):
        return cls(**parsed)


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Prepends the path of a dataclass to errors that begin with the name of a field."""
    try:
        yield
    except InputError as error:
        raise InputError(_join(where, str(error))) from error


def _parse_limited(hint: Any, limit: Limit, value: Any, where: str) -> Any:
    """Parses a value with a limit; the message for another type states the limit as well."""
    noun = _NOUNS.get(hint)
    if noun is not None and not _is_scalar(hint, value):
        _fail(where, f"{noun} {limit.text}", value)
    parsed = parse(hint, value, where)
    if not limit.holds(parsed):
        _fail(where, f"{noun} {limit.text}" if noun else limit.text, value)
    return parsed


def _parse_mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        _fail(where, "a JSON object with at least one entry", value)
    return {key: parse(hint, item, _join(where, key)) for key, item in value.items()}


def _parse_sequence(hints: tuple, value: Any, where: str) -> tuple:
    is_list = isinstance(value, list | tuple)
    if hints[-1] is Ellipsis:
        if not is_list or not value:
            _fail(where, "a list with at least one entry", value)
        hints = hints[:1] * len(value)
    elif not is_list or len(value) != len(hints):
        _fail(where, f"a list of {len(hints)} numbers", value)
    return tuple(
        parse(hint, item, f"{where}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _parse_scalar(base: type, value: Any, where: str) -> Any:
    if not _is_scalar(base, value):
        _fail(where, _NOUNS[base], value)
    if base is not float:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= FLOAT32_MAX:
        _fail(where, "a finite float32 number", value)
    return number


def _is_scalar(base: type, value: Any) -> bool:
    accepted = (int, float) if base is float else base
    # Python counts a bool as an int, but JSON does not count it as a number
    return isinstance(value, accepted) and (base is bool or not isinstance(value, bool))


def _join(where: str, key: str) -> str:
    key = str(key)
    # Messages are one line, so line breaks within a key are escaped
    key = key if key.isprintable() else json.dumps(key)
    return f"{where}.{key}" if where else key


def _fail(where: str, expected: str, found: Any) -> NoReturn:
    text = json.dumps(found, default=repr, skipkeys=True)
    text = text if len(text) <= 60 else text[:57] + "..."
    raise InputError(f"{where}: " * bool(where) + f"expected {expected}, found {text}")
