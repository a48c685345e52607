"""Checks a scene of RenderFormer V2, which the Python API or a file gave."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.validate import check_cameras, check_dtype, check_shape, check_values
from rf_jax.structs import SceneV2

_SHAPES = {
    "triangles": ("N", 3, 3),
    "vertex_normals": ("N", 3, 3),
    "textures": ("K", "C", "T", "T"),
    "texture_index": ("N",),
    "emission": ("N", 3),
    "environment.latent_ldr": ("E", "h", "w"),
    "environment.latent_hdr": ("E", "h", "w"),
    "environment.strength": (),
    "volumes.density": ("M", "voxels"),
    "volumes.position": ("M", 3),
    "volumes.rotation": ("M", 3),
    "volumes.scale": ("M", 3),
    "volumes.scattering": ("M", 3),
    "volumes.absorption": ("M", 3),
    "camera_to_world": ("V", 4, 4),
    "fov_degrees": ("V",),
}
"""The shape of every field; a letter is the size of an axis."""

_NON_NEGATIVE = {
    "emission",
    "environment.strength",
    "volumes.density",
    "volumes.scattering",
    "volumes.absorption",
}


def validate_scene_v2(scene: SceneV2, names: Mapping[str, str] | None = None) -> None:
    """Checks shapes, types and ranges.

    Args:
      scene: a scene of arrays.
      names: what messages call a field, such as "vertex_normals" or "volumes.density", if not by
        its own name.

    Raises:
      InputError: names the field, what was expected and what was found.
    """
    sizes: dict[str, int] = {}
    for field, shape in _SHAPES.items():
        array = _field(scene, field)
        if array is None:
            continue
        name = (names or {}).get(field, field)
        check_dtype(name, array, "integer" if field == "texture_index" else "floating-point")
        check_shape(name, array, [shape], sizes)
        values = np.asarray(array)
        check_values(name, values, np.isfinite, "finite values")
        if field in _NON_NEGATIVE:
            check_values(name, values, lambda x: x >= 0, "values >= 0")
        if field == "texture_index":
            check_values(
                name, values, lambda x: (x >= 0) & (x < sizes["K"]), f"0 to {sizes['K'] - 1}"
            )
        if field == "camera_to_world":
            check_cameras(name, values)
        if field == "fov_degrees":
            check_values(name, values, lambda x: (x > 0) & (x < 180), "degrees in (0, 180)")


def _field(scene: SceneV2, field: str) -> Any:
    """The array of a field, or None if the scene has no environment or no volumes."""
    outer, _, inner = field.partition(".")
    value = getattr(scene, outer)
    if not inner:
        if value is None:
            raise InputError(f"{field}: expected an array, found None")
        return value
    return None if value is None else getattr(value, inner)
