"""Files that a page saves: images, the edited scene, and the scene seen along a path of cameras."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rf_jax.images.files import save_exr, save_png
from rf_jax.images.tone_map import to_uint8
from rf_jax.rendering.generations import save_scene
from rf_jax.scene.description import Camera, save_scene_description
from rf_jax.scene.triangles import cameras_to_world
from rf_jax.viewer.picture import displayed
from rf_jax.viewer.state import EditedScene


def save_image(
    linear: np.ndarray, exposure: float, tone_mapper: str, folder: Path, name: str
) -> list[Path]:
    """Writes an image [H, H, 3] as a linear EXR and as the PNG that the page shows.

    Raises:
      InputError: a file cannot be written.
    """
    exr, png = _free(folder, name, ".exr", ".png")
    save_exr(exr, linear)
    save_png(png, to_uint8(displayed(linear, exposure, tone_mapper)))
    return [exr, png]


def save_edited(
    edited: EditedScene, cameras: Sequence[Camera], folder: Path, name: str
) -> list[Path]:
    """Writes a scene with other cameras: as JSON if it was read from JSON, else as HDF5.

    Raises:
      InputError: the file cannot be written.
    """
    if edited.description is None:
        (path,) = _free(folder, name, ".h5")
        fov = np.array([camera.fov for camera in cameras], np.float32)
        scene = dataclasses.replace(
            edited.scene, camera_to_world=cameras_to_world(cameras), fov_degrees=fov
        )
        save_scene(scene, path)
    else:
        (path,) = _free(folder, name, ".json")
        save_scene_description(edited.described(folder, tuple(cameras)), path)
    return [path]


def _free(folder: Path, name: str, *suffixes: str) -> list[Path]:
    """Paths NAME.SUFFIX, or NAME_2.SUFFIX and so on, at which there are no files yet."""
    stems = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
    candidates = ([folder / f"{stem}{suffix}" for suffix in suffixes] for stem in stems)
    return next(paths for paths in candidates if not any(path.exists() for path in paths))
