"""Compares a scene with those that a network was trained on."""

import logging

import jax
import numpy as np

from rf_jax.errors import one_line
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR, Scene, SceneV2
from rf_jax.trained_on import LIGHT_EDGE, TrainedOn

_log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""A value counts as outside if it is beyond a range by more than this share of the upper limit;
counts are exact."""

_PHRASES = {
    "triangles": "{} triangles",
    "extent": "coordinates up to {}",
    "camera_distance": "cameras at {} from the origin",
    "fov": "a field of view of {} degrees",
    "lights": "{} triangles that emit",
    "light_distance": "lights at {} from the origin",
    "light_scale": f"lights with edges of {{}} times {LIGHT_EDGE}",
    "emission": "emission that sums to {}",
    "specular": "a specular reflectance of {}",
    "white": "specular reflectance or emission whose colours differ by {}",
    "reflectance": "a diffuse + specular reflectance of {}",
}
"""How a warning names a field of `TrainedOn` and the values that are outside of its range."""

_NO_LIGHT = "no light: no triangle emits"

NAME_WIDTH = 23
"""Characters of an object's name in tables."""

_OBJECT_ROW = "{:<24}{:>10}  {:<22}{:<22}{:<22}{}"
_LIGHT_ROW = "{:<24}{:>10}  {:<22}{:<20}{}"
_VIEW_ROW = "{:<8}{:<24}{:<12}{}"


def scene_warnings(scene: Scene | SceneV2, trained_on: TrainedOn) -> dict[str, str]:
    """One line for each way in which a scene is unlike those that the weights saw.

    Such a scene is rendered all the same, but the image may be far from the truth.

    Args:
      scene: a valid scene, batched or not. Of one of V2 only its light is looked at.
      trained_on: what the weights were trained on.

    Returns:
      the lines by the field of `TrainedOn` that they are about.
    """
    if isinstance(scene, SceneV2):
        return {} if _is_lit(scene) else {"lights": _NO_LIGHT}
    if np.ndim(scene.triangles) == 4:
        scenes = [jax.tree.map(lambda x, i=i: x[i], scene) for i in range(len(scene.triangles))]
        lines = [scene_warnings(single, trained_on) for single in scenes]
        return {field: line for found in reversed(lines) for field, line in found.items()}
    values = measure(scene)
    warnings = {}
    if not values["lights"][0]:
        warnings["lights"] = _NO_LIGHT
        del values["emission"]
    for field, found in values.items():
        limit = getattr(trained_on, field)
        if limit is None or limit is False or not found.size:
            continue
        low, high = limit if isinstance(limit, tuple) else (0, 0 if limit is True else limit)
        margin = 0 if found.dtype.kind == "i" else TOLERANCE * max(high, 0.5)
        outside = found[(found < low - margin) | (found > high + margin)]
        if outside.size:
            least = outside.min() if low else outside.max()
            phrase = _PHRASES[field].format(_range(least, outside.max()))
            saw = "none" if not high else _range(low, high) if low else f"at most {_number(high)}"
            warnings[field] = f"{phrase}: the weights saw {saw}"
    return warnings


def log_warnings(
    scene: Scene | SceneV2, trained_on: TrainedOn, logged: set[str], where: str = ""
) -> None:
    """Logs the lines of `scene_warnings` behind `where`, except for fields that are in `logged`.

    Their fields are added to `logged`.
    """
    for field, line in scene_warnings(scene, trained_on).items():
        if field not in logged:
            logged.add(field)
            _log.warning("%s%s", where, line)


def _is_lit(scene: SceneV2) -> bool:
    """Whether a triangle emits, or the environment does."""
    environment = scene.environment
    return bool(np.any(scene.emission)) or (
        environment is not None and bool(np.any(environment.strength))
    )


def measure(scene: Scene) -> dict[str, np.ndarray]:
    """The values of an unbatched scene that the ranges of `TrainedOn` are about, by field."""
    triangles, texture = valid_triangles(scene)
    emission = texture[:, EMISSION]
    light = emission.max(axis=1) > 0
    lights = triangles[light]
    edges = np.linalg.norm(lights - np.roll(lights, 1, axis=1), axis=-1)
    hues = np.ptp(emission, axis=1) / np.maximum(emission.max(axis=1), 1)
    return {
        "triangles": np.array([len(triangles)]),
        "extent": np.abs(triangles[~light]).max(axis=(1, 2)),
        "camera_distance": np.linalg.norm(np.asarray(scene.camera_to_world)[:, :3, 3], axis=1),
        "fov": np.asarray(scene.fov_degrees),
        "lights": np.array([light.sum()]),
        "light_distance": np.linalg.norm(lights.mean(axis=1), axis=1),
        "light_scale": edges.max(axis=1, initial=0) / LIGHT_EDGE,
        "emission": emission.sum(axis=0).mean(keepdims=True),
        "specular": texture[:, SPECULAR].max(axis=1),
        "white": np.concatenate([np.ptp(texture[:, SPECULAR], axis=1), hues]),
        "reflectance": (texture[:, DIFFUSE] + texture[:, SPECULAR]).max(axis=1),
    }


def describe(scene: Scene) -> list[str]:
    """An unbatched scene in lines of text: counts, ranges, and tables of objects, lights, views."""
    triangles, texture = valid_triangles(scene)
    keep = slice(None) if scene.valid_mask is None else np.asarray(scene.valid_mask)
    names = [one_line(name, NAME_WIDTH) for name in scene.object_names] or ["(no names)"]
    objects = np.zeros(len(triangles), int) if scene.objects is None else scene.objects[keep]
    light = texture[:, EMISSION].max(axis=1) > 0
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    lines = [
        f"{len(triangles):,} triangles, {len(scene.object_names)} named objects, "
        f"{light.sum():,} triangles that emit, {len(scene.fov_degrees)} views",
        f"coordinates: {', '.join(map(_interval, 'xyz', low, high))}",
        "",
        _OBJECT_ROW.format("object", "triangles", "size", "diffuse", "specular", "roughness"),
    ]
    for index, name in enumerate(names):
        rows = objects == index
        if rows.any():
            corners, values = triangles[rows].reshape(-1, 3), texture[rows]
            size, diffuse = np.ptp(corners, axis=0), values[:, DIFFUSE].mean(axis=0)
            specular, roughness = values[:, SPECULAR].mean(axis=0), values[:, ROUGHNESS]
            cells = (f"{rows.sum():,}", *map(_vector, (size, diffuse, specular)))
            cells += (_range(roughness.min(), roughness.max()),)
            lines.append(_OBJECT_ROW.format(name, *cells))
    lines += ["", _LIGHT_ROW.format("light", "triangles", "centre", "distance", "emission")]
    for index, name in enumerate(names):
        rows = (objects == index) & light
        if rows.any():
            centre = triangles[rows].mean(axis=(0, 1))
            cells = _vector(centre), _number(np.linalg.norm(centre))
            emission = _vector(texture[rows, EMISSION].mean(axis=0))
            lines.append(_LIGHT_ROW.format(name, f"{rows.sum():,}", *cells, emission))
    lines += ["", _VIEW_ROW.format("view", "position", "distance", "fov")]
    for view, (camera, fov) in enumerate(
        zip(scene.camera_to_world, scene.fov_degrees, strict=True)
    ):
        position = camera[:3, 3]
        distance = _number(np.linalg.norm(position))
        lines.append(_VIEW_ROW.format(view, _vector(position), distance, _number(fov)))
    return lines


def valid_triangles(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, 3, 3] and material values [N, 13] of a scene's real triangles, float64.

    Of a texture patch it takes the largest value of each channel.
    """
    keep = slice(None) if scene.valid_mask is None else np.asarray(scene.valid_mask)
    texture = np.asarray(scene.texture, np.float64)[keep]
    if texture.ndim == 4:
        texture = texture.max(axis=(2, 3))
    return np.asarray(scene.triangles, np.float64)[keep], texture


def _interval(axis: str, low: float, high: float) -> str:
    return f"{axis} {_range(low, high)}"


def _vector(values: np.ndarray) -> str:
    return " ".join(map(_number, values))


def _range(low: float, high: float) -> str:
    first, last = _number(low), _number(high)
    return first if first == last else f"{first} to {last}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
