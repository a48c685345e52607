"""The parameters of a scene that a fit may change, by names such as `left_wall.diffuse`.

Each has coordinates in which Adam's steps of one size suit all of them, and bounds that a step is
projected onto: a colour can reach 0 and 1, which a logit cannot, and its gradient does not vanish
near them.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax import schema
from rf_jax.errors import InputError, listed, prefix_errors
from rf_jax.radiance import linear_radiance, log_radiance
from rf_jax.scene.description import (
    Camera,
    SceneDescription,
    SceneObject,
    parse_scene_description,
)
from rf_jax.scene.parameters import SceneParameters

Values = dict[str, jax.Array]
"""The value of each free parameter by its name, in the units of scene files."""

CAMERAS = "cameras"
"""What the names of the cameras' parameters begin with."""

FOV_UNIT = 40.0
"""Degrees of field of view per unit of its coordinate."""


class Kind(NamedTuple):
    """What can be free of an object or of the cameras.

    Attributes:
      text: what it is, for people.
      low, high: bounds of the coordinates.
      encode, decode: from values to coordinates and back.
      moves: whether it is a place, which is also kept near to its start.
    """

    text: str
    low: float = -np.inf
    high: float = np.inf
    encode: Callable = lambda x: x
    decode: Callable = lambda x: x
    moves: bool = False


OBJECT_KINDS = {
    "diffuse": Kind("diffuse reflectance, RGB in [0, 1]", 0, 1),
    "specular": Kind("specular reflectance, RGB in [0, 1]", 0, 1),
    "roughness": Kind("roughness in [0, 1]", 0, 1),
    "emission": Kind(
        "emitted radiance, RGB, at least 0; steps are in its logarithm",
        0,
        encode=log_radiance,
        decode=linear_radiance,
    ),
    "position": Kind("translation, x y z, of the object or light as a whole", moves=True),
}
CAMERA_KINDS = {
    "position": Kind("where each camera is, x y z", moves=True),
    "target": Kind("what each camera looks at, x y z", moves=True),
    "fov": Kind(
        "field of view of each camera in degrees, 5 to 150",
        5 / FOV_UNIT,
        150 / FOV_UNIT,
        encode=lambda x: x / FOV_UNIT,
        decode=lambda x: x * FOV_UNIT,
    ),
}
_MATERIAL_FIELD = {"emission": "emissive"}
"""What scene files call a parameter of a material, if not by its name here."""


@dataclasses.dataclass(frozen=True)
class Free:
    """A free parameter.

    Attributes:
      owner: an object, or `CAMERAS` for all cameras.
      field: a key of `OBJECT_KINDS` or `CAMERA_KINDS`.
      start: one number or three to begin with; None for what the scene has.
    """

    owner: str
    field: str
    start: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.field}"

    @property
    def kind(self) -> Kind:
        return (CAMERA_KINDS if self.owner == CAMERAS else OBJECT_KINDS)[self.field]

    def bounds(self, start: jax.Array, max_move: float) -> tuple[jax.Array, jax.Array]:
        """Bounds of the coordinates that begin at `start`, in its shape."""
        kind = self.kind
        if kind.moves:
            return start - max_move, start + max_move
        return jnp.full_like(start, kind.low), jnp.full_like(start, kind.high)


def parse_free(text: str, description: SceneDescription) -> list[Free]:
    """The free parameters that a text such as "left_wall.diffuse, light.emission=4000" names.

    Raises:
      InputError: an object or parameter that the scene does not have, one that is named twice, or a
        start that is no numbers.
    """
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError('--free: expected names such as "left_wall.diffuse,light.emission"')
    free = [_parse_part(part, description) for part in parts]
    names = [one.name for one in free]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"--free: {twice[0]} is named twice")
    return free


def _parse_part(part: str, description: SceneDescription) -> Free:
    """NAME, or NAME=NUMBERS with one number or as many as the parameter has."""
    name, equals, text = (piece.strip() for piece in part.partition("="))
    owner, field = _parse_name(name, description)
    if not equals:
        return Free(owner, field)
    most = 1 if field in ("roughness", "fov") else 3
    try:
        start = tuple(float(number) for number in text.split())
    except ValueError:
        start = ()
    if len(start) not in (1, most):
        numbers = "a number" if most == 1 else "a number or three with blanks between them"
        raise InputError(f"--free: {name}: expected {numbers} after =, found {text!r}")
    return Free(owner, field, start if len(start) == most else start * most)


def _parse_name(name: str, description: SceneDescription) -> tuple[str, str]:
    owner, _, field = name.rpartition(".")
    if owner == CAMERAS:
        kinds = CAMERA_KINDS
    elif owner in description.objects:
        kinds = OBJECT_KINDS
    elif not owner:
        raise InputError(f"--free: expected OBJECT.PARAMETER, such as light.emission, found {name}")
    else:
        known = listed([*description.objects, CAMERAS])
        raise InputError(f"--free: no object named {owner!r} in this scene; there are {known}")
    if field not in kinds:
        raise schema.unknown_key(field, kinds, f"--free: {owner}")
    return owner, field


def with_starts(description: SceneDescription, free: list[Free]) -> SceneDescription:
    """The description in which parameters with a start of their own have it.

    Raises:
      InputError: a start that a scene cannot have.
    """
    given = [one for one in free if one.start is not None]
    values = {}
    for one in given:
        value = np.array(one.start)
        value = np.broadcast_to(value, (len(description.cameras), len(value)))
        value = value if one.owner == CAMERAS else value[0]
        values[one.name] = value[..., 0] if value.shape[-1] == 1 else value
    changed = describe_values(description, given, values)
    with prefix_errors("--free"):
        return parse_scene_description(schema.to_dict(changed))


def start_values(
    free: list[Free], description: SceneDescription, parameters: SceneParameters
) -> Values:
    """What the scene has; the mean where the faces of an object differ."""
    return {
        one.name: jnp.asarray(_start(one, description, parameters), jnp.float32) for one in free
    }


def _start(one: Free, description: SceneDescription, parameters: SceneParameters):
    if one.owner == CAMERAS:
        field = {"target": "look_at"}.get(one.field, one.field)
        return [getattr(camera, field) for camera in description.cameras]
    if one.field == "position":
        return description.objects[one.owner].transform.translation
    value = getattr(parameters.objects[one.owner], one.field)
    per_face = value.ndim > (one.field != "roughness")
    return value.mean(0) if per_face else value


def with_description_cameras(
    parameters: SceneParameters, description: SceneDescription
) -> SceneParameters:
    """Parameters whose cameras look at the points that the description names."""
    cameras = description.cameras
    position, target, up = (
        jnp.asarray([getattr(camera, name) for camera in cameras], jnp.float32)
        for name in ("position", "look_at", "up")
    )
    return parameters.with_cameras(position=position, target=target, up=up)


def apply_values(
    parameters: SceneParameters, free: list[Free], start: Values, values: Values
) -> SceneParameters:
    """The parameters of the scene in which the free ones have these values; differentiable.

    Args:
      parameters: of the scene that begins with `start`.
      free: the free parameters.
      start, values: what they begin with, and what they become.
    """
    for one in free:
        value = values[one.name]
        if one.owner == CAMERAS:
            field = {"fov": "fov_degrees"}.get(one.field, one.field)
            parameters = parameters.with_cameras(**{field: value})
        elif one.field == "position":
            vertices = parameters.objects[one.owner].vertices + (value - start[one.name])
            parameters = parameters.with_object(one.owner, vertices=vertices)
        else:
            parameters = parameters.with_object(one.owner, **{one.field: value})
    return parameters


def describe_values(
    description: SceneDescription, free: list[Free], values: Values
) -> SceneDescription:
    """The description with these values; diffuse reflectances take the nearest of its 8 bits."""
    for one in free:
        value = np.asarray(values[one.name], np.float64)
        if one.owner == CAMERAS:
            cameras = zip(description.cameras, value, strict=True)
            cameras = tuple(_with_camera(camera, one.field, v) for camera, v in cameras)
            description = dataclasses.replace(description, cameras=cameras)
        else:
            changed = _with_value(description.objects[one.owner], one.field, value)
            objects = description.objects | {one.owner: changed}
            description = dataclasses.replace(description, objects=objects)
    return description


def _with_camera(camera: Camera, field: str, value: np.ndarray) -> Camera:
    field = {"target": "look_at"}.get(field, field)
    return dataclasses.replace(camera, **{field: _plain(value)})


def _with_value(part: SceneObject, field: str, value: np.ndarray) -> SceneObject:
    if field == "position":
        transform = dataclasses.replace(part.transform, translation=_plain(value))
        return dataclasses.replace(part, transform=transform)
    changes = {_MATERIAL_FIELD.get(field, field): _plain(value)}
    if field == "diffuse":
        # Readers round down: `rf_jax.structs.quantized`
        changes = {"diffuse": _plain(np.rint(255 * value) / 255), "rand_tri_diffuse_seed": None}
    return dataclasses.replace(part, material=dataclasses.replace(part.material, **changes))


def _plain(value: np.ndarray) -> tuple[float, ...] | float:
    return tuple(value.tolist()) if value.ndim else float(value)
