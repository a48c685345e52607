"""Checks a scene of arrays, which the Python API or a file gave."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rf_jax.errors import InputError
from rf_jax.structs import NUM_CHANNELS, ROUGHNESS, Scene

ROUGHNESS_LIMIT = 1 + 1e-3
"""Largest roughness that is accepted; float16 may turn a 1 into slightly more."""

_OPTIONAL = {"valid_mask": "bool", "objects": "integer"}
"""Fields of a scene that may be None, with the kind of their values."""

ROTATION_TOLERANCE = 1e-3
"""Largest deviation of a camera's axes from orthonormal ones."""


def validate_scene(scene: Scene) -> None:
    """Checks shapes, types and ranges of a scene, batched or not. Padding may hold anything.

    Raises:
      InputError: names the field, what was expected and what was found.
    """
    validate_shapes(scene)
    validate_values(scene)


def with_view_axes(scene: Scene) -> Scene:
    """Completes cameras that were given more simply, where the meaning is plain.

    One camera [4, 4] becomes one view (of each scene of a batch), one field of view serves all
    cameras, and lists and integers become arrays of floating-point numbers. The rest of the scene
    is not looked at.
    """
    cameras, fov = _floating(scene.camera_to_world), _floating(scene.fov_degrees)
    lead = getattr(scene.triangles, "shape", ())[:-3]
    if getattr(cameras, "shape", ()) == (4, 4):
        cameras = np.broadcast_to(cameras, (*lead, 1, 4, 4))
    if getattr(fov, "shape", None) == () and fov.dtype.kind == "f":
        fov = np.full(getattr(cameras, "shape", ())[:-2], fov)
    return scene.replace(camera_to_world=cameras, fov_degrees=fov)


def _floating(value: Any) -> Any:
    """Numbers as a floating-point array; what is none stays, and is refused later."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of different lengths
        return value
    return array.astype(np.float32) if array.dtype.kind in "iu" else array


def to_float32(array: np.ndarray) -> np.ndarray:
    """Converts to float32; what overflows becomes infinite, and validation refuses it."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def to_float16(array: np.ndarray, name: str) -> np.ndarray:
    """Converts to float16, as files hold it.

    Raises:
      InputError: a value overflows; the message begins with `name`.
    """
    limit = float(np.finfo(np.float16).max)
    largest = float(np.abs(array).max(initial=0))
    if largest > limit:
        raise InputError(f"{name}: expected values up to {limit:g}, found {largest:g}")
    return array.astype(np.float16)


def validate_shapes(scene: Scene, names: Mapping[str, str] | None = None) -> None:
    """Checks shapes and dtypes.

    Args:
      scene: a scene whose fields have `shape` and `dtype`; HDF5 datasets do.
      names: what messages call a field, if not by its own name.

    Raises:
      InputError: as `validate_scene`.
    """
    sizes: dict[str, int] = {}
    lead = ("B",) if _rank(scene.triangles) == 4 else ()
    value = (*lead, "N", NUM_CHANNELS)
    patterns = {
        "triangles": [(*lead, "N", 3, 3)],
        "vertex_normals": [(*lead, "N", 3, 3)],
        "texture": [value, (*value, "T", "T")],
        "valid_mask": [(*lead, "N")],
        "objects": [(*lead, "N")],
        "camera_to_world": [(*lead, "V", 4, 4)],
        "fov_degrees": [(*lead, "V")],
    }
    for field, allowed in patterns.items():
        array = getattr(scene, field)
        if array is None and field in _OPTIONAL:
            continue
        name = (names or {}).get(field, field)
        check_dtype(name, array, _OPTIONAL.get(field, "floating-point"))
        check_shape(name, array, allowed, sizes)


def validate_values(scene: Scene, names: Mapping[str, str] | None = None) -> None:
    """Checks the numbers of a scene whose shapes are right.

    Args:
      scene: a scene of arrays.
      names: as in `validate_shapes`.

    Raises:
      InputError: as `validate_scene`.
    """
    name = {field: field for field in Scene.__dataclass_fields__} | dict(names or {})
    mask = None if scene.valid_mask is None else np.asarray(scene.valid_mask)
    if mask is not None and not mask.any(axis=-1).all():
        raise InputError(f"{name['valid_mask']}: expected a valid triangle, found none")
    num_lead_axes = scene.triangles.ndim - 2
    for field in ("triangles", "vertex_normals", "texture"):
        values = np.asarray(getattr(scene, field))
        values = values.reshape(-1, *values.shape[num_lead_axes:])
        values = values if mask is None else values[mask.reshape(-1)]
        check_values(name[field], values, np.isfinite, "finite values")
        if field == "texture":
            _check_materials(name[field], values)
    check_cameras(name["camera_to_world"], np.asarray(scene.camera_to_world))
    fov = np.asarray(scene.fov_degrees)
    check_values(name["fov_degrees"], fov, lambda x: (x > 0) & (x < 180), "degrees in (0, 180)")


def _check_materials(name: str, texture: np.ndarray) -> None:
    """`texture` is [N, 13] or [N, 13, T, T]."""
    check_values(name, texture, lambda x: x >= 0, "values >= 0")
    roughness = texture[:, ROUGHNESS]
    check_values(name, roughness, lambda x: x <= ROUGHNESS_LIMIT, "roughness in [0, 1]")


def check_cameras(name: str, cameras: np.ndarray) -> None:
    """Checks that cameras [..., 4, 4] are rigid motions."""
    check_values(name, cameras, np.isfinite, "finite values")
    cameras = cameras.astype(np.float64)
    check_values(name, cameras[..., 3, :], lambda x: x == [0, 0, 0, 1], "a last row of 0, 0, 0, 1")
    rotation = cameras[..., :3, :3]
    gram = np.swapaxes(rotation, -1, -2) @ rotation
    check_values(
        name,
        np.abs(gram - np.eye(3)).max(axis=(-1, -2)),
        lambda error: error <= ROTATION_TOLERANCE,
        f"rotations orthonormal to {ROTATION_TOLERANCE}",
        "deviation",
    )
    check_values(
        name, np.linalg.det(rotation), lambda x: x > 0, "rotations", "mirroring, determinant"
    )


def check_values(
    name: str, values: np.ndarray, holds: Any, expected: str, what: str = "value"
) -> None:
    """Checks values [...] one by one; `holds` tells for an array which of its values are right."""
    valid = holds(values)
    if not valid.all():
        bad = values[~valid]
        raise InputError(f"{name}: expected {expected}, found {what} {bad[0]} ({bad.size} in all)")


def check_dtype(name: str, array: Any, expected: str) -> None:
    """Checks the kind of an array: "floating-point", "integer" or "bool"."""
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        raise InputError(f"{name}: expected an array, found {type(array).__name__}")
    if getattr(dtype, "kind", "") != expected[0]:
        raise InputError(f"{name}: expected {expected} values, found {dtype}")


def check_shape(name: str, array: Any, allowed: list[tuple], sizes: dict[str, int]) -> None:
    """Checks a shape against patterns of numbers and names of axes.

    `sizes` holds the sizes of the axes that are known by name, and gains those of this shape.
    """
    for pattern in allowed:
        bound = dict(sizes)
        if len(pattern) == len(array.shape) and all(
            size >= 1 and size == (bound.setdefault(axis, size) if isinstance(axis, str) else axis)
            for axis, size in zip(pattern, array.shape, strict=True)
        ):
            sizes.update(bound)
            return
    expected = " or ".join(
        "[" + ", ".join(str(sizes.get(axis, axis)) for axis in pattern) + "]" for pattern in allowed
    )
    empty = " (at least 1 along each axis)" if 0 in array.shape else ""
    raise InputError(f"{name}: expected shape {expected}{empty}, found {list(array.shape)}")


def _rank(array: Any) -> int:
    return len(getattr(array, "shape", ()))
