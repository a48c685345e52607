"""Reads and writes processed HDF5 files of RenderFormer V2."""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.hdf5 import has_dataset, numeric_dataset, opened_h5
from rf_jax.scene.environment_map import SHAPE, check_environment_map
from rf_jax.scene.h5 import projections, scene_dataset
from rf_jax.scene.triangles import drop_undefined_normals
from rf_jax.scene.validate import to_float16, to_float32
from rf_jax.scene.validate_v2 import validate_scene_v2
from rf_jax.structs import NUM_CHANNELS, Environment, SceneV2, VolumeCells

_log = logging.getLogger(__name__)

_VOLUMES = {
    "density": "volume_density",
    "position": "volume_position",
    "rotation": "volume_rotation",
    "scale": "volume_scale",
    "scattering": "volume_scattering_scale",
    "absorption": "volume_absorption_scale",
}
"""Name of the dataset of each field of `VolumeCells`."""

_ENVIRONMENT = {
    "latent_ldr": "env_latent_ldr",
    "latent_hdr": "env_latent_hdr",
    "strength": "env_lighting_strength",
}
"""The same for `Environment`; published files have the map itself instead, `env_map`."""

_NAMES = {
    "vertex_normals": "vn",
    "textures": "texture",
    "emission": "light_strength",
    "camera_to_world": "c2w",
    "fov_degrees": "fov",
    **{f"volumes.{field}": name for field, name in _VOLUMES.items()},
    **{f"environment.{field}": name for field, name in _ENVIRONMENT.items()},
}

_RAW_CHANNELS = (15, 16)
"""Channels of a texture that has not been encoded."""

_MAX_LATENT, _MAX_VOLUMES = 2**24, 2**28
"""Most bytes of an environment's latent, and of a field of volumes: a million cells in float32."""


class EncodesEnvironments(Protocol):
    """What reads a file needs for `env_map`: `rf_jax.scene.latents.LatentEncoders` has it."""

    def environment(self, radiance: np.ndarray | None) -> Environment: ...


def load_h5_v2(path: str | Path, encoders: EncodesEnvironments | None) -> SceneV2:
    """Reads a processed file, or one of ours.

    Triangles whose normals are not finite are dropped, and their number is logged.

    Args:
      path: the file.
      encoders: encode the environment map, and a black one if there is none. None for files with
        latents of their own, and for networks that know no environment.

    Raises:
      InputError: names the file, the dataset, what was expected and what was found.
    """
    with opened_h5(path) as file:
        _check_texture(file)
        arrays = {
            name: to_float32(scene_dataset(file, name)[:])
            for name in ("triangles", "vn", "light_strength", "c2w", "fov")
        }
        texture = numeric_dataset(file, "texture")[:]
        fov = arrays["fov"]
        count = {len(x) for x in (arrays["triangles"], arrays["vn"], texture)}
        if len(count) > 1 or len(arrays["light_strength"]) not in count:
            raise InputError(
                "triangles, vn, texture, light_strength: expected one entry a triangle in each"
            )
        light, vn = arrays["light_strength"], arrays["vn"]
        if vn.shape[1:] != (3, 3):
            raise InputError(f"vn: expected shape [N, 3, 3], found {list(vn.shape)}")
        places = np.arange(len(texture))
        triangles, vn, places = drop_undefined_normals(arrays["triangles"], vn, places, path)
        textures, index = distinct(texture[places])
        scene = SceneV2(
            triangles=triangles,
            vertex_normals=vn,
            textures=textures,
            texture_index=index,
            emission=np.maximum(light[places], 0),
            environment=_read_environment(file, encoders),
            volumes=_read_volumes(file),
            camera_to_world=arrays["c2w"],
            fov_degrees=fov[:, 0] if fov.ndim == 2 and fov.shape[1] == 1 else fov,
        )
        validate_scene_v2(scene, _NAMES)
    return scene


def save_h5_v2(scene: SceneV2, path: str | Path) -> None:
    """Writes a scene in the layout of processed files, whole or not at all.

    The environment is written as its latents, because a scene has no map any more.

    Raises:
      InputError: the scene is invalid or does not fit float16, or the file cannot be written.
    """
    validate_scene_v2(scene)
    cameras = to_float32(np.asarray(scene.camera_to_world))
    fov = to_float32(np.asarray(scene.fov_degrees))
    textures = to_float16(np.asarray(scene.textures), "textures")
    arrays = {
        "triangles": to_float32(np.asarray(scene.triangles)),
        "vn": to_float32(np.asarray(scene.vertex_normals)),
        "texture": textures[np.asarray(scene.texture_index)],
        "light_strength": to_float16(np.asarray(scene.emission), "emission"),
        "c2w": cameras,
        "fov": fov,
        "mvp": projections(cameras, fov),
    }
    for names, part in ((_ENVIRONMENT, scene.environment), (_VOLUMES, scene.volumes)):
        if part is not None:
            arrays |= {
                name: to_float32(np.asarray(getattr(part, field))) for field, name in names.items()
            }
    with atomic_path(path) as temporary:
        # HDF5 prints tracebacks of its own on a full disk, so the file is made in memory first
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs["export_metadata"] = json.dumps({"format": "v2", "texture_encoder": "qwen"})
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if array.ndim else None)
        temporary.write_bytes(content.getbuffer())


def distinct(texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct entries [K, ...] of [N, ...] in their order, and the index [N] of each."""
    places: dict[bytes, int] = {}
    index = [places.setdefault(each.tobytes(), len(places)) for each in texture]
    index = np.array(index, np.int32)
    _, first = np.unique(index, return_index=True)
    return texture[first], index


def _check_texture(file: h5py.File) -> None:
    """Refuses the textures of V1 and those that have not been encoded."""
    shape = numeric_dataset(file, "texture").shape
    channels = shape[1] if len(shape) > 1 else 0
    if channels == NUM_CHANNELS:
        raise InputError(
            f"texture: expected latents [N, 80, 4, 4], which weights of RenderFormer V2 read, "
            f"found {list(shape)} of RenderFormer V1; render it with V1 weights, or give the JSON"
        )
    if channels in _RAW_CHANNELS:
        raise InputError(
            f"texture: expected latents [N, 80, 4, 4] of RenderFormer V2, found {list(shape)}, "
            "which are not encoded yet; process the file with RenderFormer Studio first"
        )
    if len(shape) != 4:
        raise InputError(
            f"texture: expected latents [N, C, T, T] of RenderFormer V2, found {list(shape)}"
        )


def _read_environment(file: h5py.File, encoders: EncodesEnvironments | None) -> Environment | None:
    if _has_all(file, _ENVIRONMENT, "environment"):
        values = {f: numeric_dataset(file, n, _MAX_LATENT) for f, n in _ENVIRONMENT.items()}
        return Environment(**{field: to_float32(np.asarray(x)) for field, x in values.items()})
    if not has_dataset(file, "env_map"):
        return None if encoders is None else encoders.environment(None)
    dataset = numeric_dataset(file, "env_map")
    if dataset.shape != (3, *SHAPE):
        raise InputError(
            f"env_map: expected {[3, *SHAPE]}, which RenderFormer V2 reads, found "
            f"{list(dataset.shape)}; process the file with RenderFormer Studio first"
        )
    radiance = np.moveaxis(to_float32(dataset[:]), 0, -1)
    check_environment_map(radiance, "env_map")
    return require_encoders(encoders, "env_map").environment(radiance)


def require_encoders(encoders: EncodesEnvironments | None, what: str) -> EncodesEnvironments:
    """The encoders, which something of a scene needs.

    Raises:
      InputError: there are none.
    """
    if encoders is None:
        raise InputError(
            f"{what}: for RenderFormer V2 this is encoded by networks of their own, found none; "
            "give their folder with --latent_encoders (docs/v2.md)"
        )
    return encoders


def _read_volumes(file: h5py.File) -> VolumeCells | None:
    if not _has_all(file, _VOLUMES, "volumes"):
        if has_dataset(file, "volume_data"):
            raise InputError(
                "volume_data: expected volume_density [M, 64] of RenderFormer V2, found volumes "
                "that are not processed yet; process the file with RenderFormer Studio first"
            )
        return None
    cells = {f: numeric_dataset(file, name, _MAX_VOLUMES) for f, name in _VOLUMES.items()}
    if not len(cells["density"]):
        return None
    return VolumeCells(**{field: to_float32(dataset[:]) for field, dataset in cells.items()})


def _has_all(file: h5py.File, names: Mapping[str, str], what: str) -> bool:
    """Whether a file has all of these datasets; False for none of them."""
    present = [name for name in names.values() if has_dataset(file, name)]
    missing = [name for name in names.values() if name not in present]
    if present and missing:
        raise InputError(
            f"{present[0]}: expected the other fields of RenderFormer V2's {what} too, found no "
            f"{', '.join(missing)}"
        )
    return bool(present)
