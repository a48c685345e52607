"""The published JSON scene description: its fields, and a strict reader."""

import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin
from typing import get_type_hints as type_hints

from rf_jax.errors import InputError, prefix_errors


class _Limit(NamedTuple):
    text: str
    holds: Callable[[Any], bool]


Vector = tuple[float, float, float]
NonNegative = Annotated[float, _Limit(">= 0", lambda x: x >= 0)]
Fraction = Annotated[float, _Limit("in [0, 1]", lambda x: 0 <= x <= 1)]
Color = tuple[NonNegative, NonNegative, NonNegative]
FieldOfView = Annotated[float, _Limit("in (0, 180)", lambda x: 0 < x < 180)]
Seed = Annotated[int, _Limit("in [0, 2^32 - 1]", lambda x: 0 <= x < 2**32)]
FaceCount = Annotated[int, _Limit(">= 4", lambda x: x >= 4)]
Version = Annotated[str, _Limit("of the form 1.x", lambda x: bool(re.fullmatch(r"1(\.\d+)+", x)))]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Placement of an object: normalise, rotate, scale, then translate.

    Attributes:
      translation: world-space offset.
      rotation: degrees about the x axis, then the y axis, then the z axis.
      scale: factor along each world axis.
      normalize: first centre the mesh on its vertex mean and scale it to radius 0.5.
    """

    translation: Vector
    rotation: Vector
    scale: Vector
    normalize: bool = True


@dataclasses.dataclass(frozen=True)
class Material:
    """Surface of an object; colours are linear RGB.

    Attributes:
      diffuse, specular: reflectances, >= 0 (diffuse is quantised to 8 bits and ends at 1).
      roughness: in [0, 1].
      emissive: emitted radiance, >= 0.
      smooth_shading: interpolate normals across edges below 30 degrees.
      rand_tri_diffuse_seed: replaces `diffuse` by random colours drawn with this seed.
      random_diffuse_max: upper end of the random colours, in [0, 1].
      random_diffuse_type: one random colour for each of these.
    """

    diffuse: Color
    specular: Color
    roughness: Fraction
    emissive: Color
    smooth_shading: bool
    rand_tri_diffuse_seed: Seed | None = None
    random_diffuse_max: Fraction = 1.0
    random_diffuse_type: Literal["per-triangle", "per-shading-group"] = "per-shading-group"


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """A mesh file (relative to the scene's folder) with its placement and material."""

    mesh_path: str
    transform: Transform
    material: Material
    remesh: bool = False
    remesh_target_face_num: FaceCount = 2048


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera at `position` looking at `look_at`; `fov` is the full field of view in degrees."""

    position: Vector
    look_at: Vector
    up: Vector
    fov: FieldOfView


@dataclasses.dataclass(frozen=True)
class SceneDescription:
    """A scene as its JSON file describes it; at least one object and one camera."""

    scene_name: str
    version: Version
    objects: dict[str, SceneObject]
    cameras: tuple[Camera, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON value that `parse_scene_description` reads back."""
        return dataclasses.asdict(self)


def load_scene_description(path: str | Path) -> SceneDescription:
    """Reads a JSON scene file.

    Raises:
      InputError: the file cannot be read, is not UTF-8 JSON, or breaks the schema.
    """
    with prefix_errors(str(path)):
        return parse_scene_description(_read_json(Path(path)))


def parse_scene_description(value: Any) -> SceneDescription:
    """Checks a decoded JSON value against the schema.

    Raises:
      InputError: names the JSON path, what was expected and what was found.
    """
    return _parse(SceneDescription, value, "")


def parse_dataclass(cls: type, value: Any, where: str = "") -> Any:
    """Checks a decoded JSON value against the annotated fields of any dataclass.

    Args:
      where: the path of `value`, for messages.

    Raises:
      InputError: as `parse_scene_description`.
    """
    return _parse(cls, value, where)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 text, found another byte at {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"not JSON at {where}: {error.msg}") from error
    except RecursionError as error:
        raise InputError("JSON nested too deeply") from error


def _parse(hint: Any, value: Any, where: str) -> Any:
    """Parses `value` as the type `hint`; `where` is its JSON path."""
    kind, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _parse_fields(hint, value, where)
    if kind is dict:
        return _parse_mapping(args[1], value, where)
    if kind is tuple:
        return _parse_sequence(args, value, where)
    if kind is Literal:
        if value not in args:
            _fail(where, "one of " + ", ".join(map(json.dumps, args)), value)
        return value
    if kind in (Union, types.UnionType):
        return None if value is None else _parse(args[0], value, where)
    base, limit = args if kind is Annotated else (hint, None)
    return _parse_scalar(base, limit, value, where)


def _parse_fields(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _fail(where, "a JSON object", value)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise InputError(f"{_join(where, key)}: unknown key; did you mean {close[0]!r}?")
    for key, field in fields.items():
        if key not in value and field.default is dataclasses.MISSING:
            raise InputError(f"{_join(where, key)}: missing key")
    hints = type_hints(cls, include_extras=True)
    return cls(**{key: _parse(hints[key], item, _join(where, key)) for key, item in value.items()})


def _parse_mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        _fail(where, "a JSON object with at least one entry", value)
    return {key: _parse(hint, item, _join(where, key)) for key, item in value.items()}


def _parse_sequence(hints: tuple, value: Any, where: str) -> tuple:
    is_list = isinstance(value, list | tuple)
    if hints[-1] is Ellipsis:
        if not is_list or not value:
            _fail(where, "a list with at least one entry", value)
        hints = hints[:1] * len(value)
    elif not is_list or len(value) != len(hints):
        _fail(where, f"a list of {len(hints)} numbers", value)
    return tuple(
        _parse(hint, item, f"{where}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


_FLOAT32_MAX = 3.4028235e38

_NOUNS = {float: "a number", int: "an integer", str: "a string", bool: "true or false"}


def _parse_scalar(base: type, limit: _Limit | None, value: Any, where: str) -> Any:
    accepted = (int, float) if base is float else base
    # bool is an int to Python, but not a number to JSON
    valid = isinstance(value, accepted) and (base is bool or not isinstance(value, bool))
    if valid and base is float:
        value = _to_float(value)
        if not abs(value) <= _FLOAT32_MAX:
            _fail(where, "a finite float32 number", value)
    if not valid or (limit is not None and not limit.holds(value)):
        _fail(where, f"{_NOUNS[base]} {limit.text}" if limit else _NOUNS[base], value)
    return value


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _join(where: str, key: str) -> str:
    key = key if key.isprintable() else json.dumps(key)
    return f"{where}.{key}" if where else key


def _fail(where: str, expected: str, found: Any) -> NoReturn:
    text = json.dumps(found, default=repr)
    text = text if len(text) <= 60 else text[:57] + "..."
    raise InputError(f"{where or 'scene'}: expected {expected}, found {text}")
