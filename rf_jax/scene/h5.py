"""Reads and writes scenes in the published HDF5 layout."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.hdf5 import MAX_BYTES, has_dataset, numeric_dataset, opened_h5
from rf_jax.scene.triangles import drop_undefined_normals
from rf_jax.scene.validate import (
    to_float16,
    to_float32,
    validate_scene,
    validate_shapes,
    validate_values,
)
from rf_jax.structs import PUBLISHED_TEXTURE_SIZE, Scene, constant_texture, expand_texture

DATASETS = {
    "triangles": "triangles",
    "vertex_normals": "vn",
    "texture": "texture",
    "camera_to_world": "c2w",
    "fov_degrees": "fov",
}
"""Name of the dataset that holds each field of `Scene`."""

LARGEST = {"triangles": 2**29, "vn": 2**29, "light_strength": 2**28, "c2w": 2**24, "fov": 2**20}
"""Most bytes of a scene's datasets: 7 million triangles and 131,072 views in float64."""

_NEAR, _FAR = 0.05, 5.0
"""Distances of the clipping planes in the published `mvp` matrices."""

_CHUNK = 1024
"""Number of triangles whose patches are in memory at a time: 27 MB of float16."""


def load_h5(path: str | Path) -> Scene:
    """Reads an unbatched scene as float32.

    Datasets other than triangles, vn, texture, c2w and fov are ignored. Triangles whose normals
    are not finite are dropped, and their number is logged.

    Returns:
      the scene, without a mask. Its texture is [N, 13] where each triangle has one value, even if
      the file holds patches [N, 13, T, T]; otherwise it is these patches.

    Raises:
      InputError: names the file, the dataset, what was expected and what was found.
    """
    with opened_h5(path) as file:
        scene = _read(file, path)
        validate_values(scene, DATASETS)
    return scene


def load_images(path: str | Path, views: Sequence[int] | None = None) -> np.ndarray:
    """Reads the ground truth of a training file.

    Args:
      path: a training file.
      views: indices of the views to read, in any order; None for all.

    Returns:
      [V, H, H, 4] float16: linear RGB, premultiplied, and coverage.

    Raises:
      InputError: names the file, what was expected and what was found.
    """
    with opened_h5(path) as file:
        dataset = numeric_dataset(file, "img")
        _check_images_type(dataset, scene_dataset(file, "c2w").shape[:1])
        images = dataset[:] if views is None else np.stack([dataset[i] for i in views])
        _check_images_values(images)
    return images


def has_images(path: str | Path) -> bool:
    """Whether a file holds ground truth, as training files do.

    Raises:
      InputError: it is not an HDF5 file.
    """
    with opened_h5(path) as file:
        return has_dataset(file, "img")


def images_side(path: str | Path) -> int:
    """The side H of a training file's images in pixels; the images themselves are not read.

    Raises:
      InputError: as `load_images`.
    """
    with opened_h5(path) as file:
        shape = numeric_dataset(file, "img").shape
        if len(shape) != 4:
            raise InputError(f"img: expected [V, H, H, 4], found {list(shape)}")
    return shape[1]


def load_attributes(path: str | Path) -> dict[str, Any]:
    """Reads the attributes of a file, which in training files say how they were made.

    Raises:
      InputError: it is not an HDF5 file.
    """
    with opened_h5(path) as file:
        return dict(file.attrs)


def save_h5(
    scene: Scene,
    path: str | Path,
    full_texture: bool = False,
    images: np.ndarray | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Writes the valid triangles and the cameras of one scene, whole or not at all.

    Args:
      scene: an unbatched scene.
      path: the file to write; its folder is made if missing.
      full_texture: whether a texture of one value per triangle is written as [N, 13, 32, 32]
        patches, which other programs expect, instead of [N, 13].
      images: [V, H, H, 4] ground truth. It makes the file a training file, with the datasets `img`
        and `mvp`.
      attributes: attributes of the file.

    Raises:
      InputError: the scene is invalid or does not fit float16, or the file cannot be written.
    """
    validate_scene(scene)
    if np.ndim(scene.triangles) != 3:
        raise InputError("triangles: expected one scene [N, 3, 3], found a batch")
    arrays = _arrays_to_write(scene)
    if images is not None:
        images = np.asarray(images).astype(np.float16)
        _check_images_type(images, arrays["c2w"].shape[:1])
        _check_images_values(images)
        arrays |= {"img": images, "mvp": projections(arrays["c2w"], arrays["fov"])}
    with atomic_path(path) as temporary:
        # HDF5 prints tracebacks of its own on a full disk, so the file is made in memory first
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs.update(attributes or {})
            _write(file, arrays, full_texture)
        temporary.write_bytes(content.getbuffer())


def projections(camera_to_world: np.ndarray, fov_degrees: np.ndarray) -> np.ndarray:
    """The `mvp` matrices of the published files, from world to clip space.

    The near plane is at 0.05, the far plane at 5, and y points down the image.

    Args:
      camera_to_world: [V, 4, 4] camera matrices.
      fov_degrees: [V] full fields of view.

    Returns:
      [V, 4, 4] float32.
    """
    focal = 1 / np.tan(np.deg2rad(fov_degrees.astype(np.float64)) / 2)
    clip = np.zeros((len(focal), 4, 4))
    clip[:, 0, 0], clip[:, 1, 1] = focal, -focal
    clip[:, 2, 2] = (_FAR + _NEAR) / (_NEAR - _FAR)
    clip[:, 2, 3] = 2 * _FAR * _NEAR / (_NEAR - _FAR)
    clip[:, 3, 2] = -1
    return (clip @ np.linalg.inv(camera_to_world.astype(np.float64))).astype(np.float32)


def _check_images_type(images: np.ndarray | h5py.Dataset, num_views: tuple[int, ...]) -> None:
    """Checks the shape and dtype of images; `num_views` is the shape of what each has one of."""
    shape = images.shape
    if len(shape) != 4 or shape[:1] != num_views or shape[1] != shape[2] or shape[3] != 4:
        views = ", ".join(map(str, num_views))
        raise InputError(f"img: expected shape [{views}, H, H, 4], found {list(shape)}")
    if images.dtype != np.float16:
        raise InputError(f"img: expected float16 values, found {images.dtype}")


def _check_images_values(images: np.ndarray) -> None:
    if bad := int((~np.isfinite(images)).sum()):
        raise InputError(f"img: expected finite values, found {bad} others")


def scene_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of a scene, whose values have not been read; InputError if it is too large."""
    return numeric_dataset(file, name, LARGEST.get(name, MAX_BYTES))


def _read(file: h5py.File, path: str | Path) -> Scene:
    if has_dataset(file, "light_strength"):
        raise InputError(
            "light_strength: a processed scene of RenderFormer V2, which only weights of V2 read; "
            "give such weights, or a scene of V1"
        )
    datasets = {field: scene_dataset(file, name) for field, name in DATASETS.items()}
    fov = datasets["fov_degrees"]
    if len(fov.shape) == 2 and fov.shape[1] == 1:
        datasets["fov_degrees"] = fov[:, 0]
    if datasets["triangles"].ndim != 3:
        found = list(datasets["triangles"].shape)
        raise InputError(f"triangles: expected shape [N, 3, 3], found {found}")
    validate_shapes(Scene(**datasets, valid_mask=None), DATASETS)
    texture = _read_texture(datasets.pop("texture"))
    arrays = {field: to_float32(dataset[:]) for field, dataset in datasets.items()}
    triangles, normals, texture = drop_undefined_normals(
        arrays.pop("triangles"), arrays.pop("vertex_normals"), texture, path
    )
    return Scene(
        triangles=triangles, vertex_normals=normals, texture=texture, valid_mask=None, **arrays
    )


def _read_texture(dataset: h5py.Dataset) -> np.ndarray:
    """[N, 13] if the dataset holds one value per triangle, otherwise [N, 13, T, T]."""
    if dataset.ndim == 2:
        return to_float32(dataset[:])
    values = []
    for start in range(0, len(dataset), _CHUNK):
        value = constant_texture(dataset[start : start + _CHUNK])
        if value is None:
            return to_float32(dataset[:])
        values.append(to_float32(value))
    return np.concatenate(values)


def _arrays_to_write(scene: Scene) -> dict[str, np.ndarray]:
    """The array of each dataset, in the dtype that the file has."""
    keep = slice(None) if scene.valid_mask is None else np.asarray(scene.valid_mask)
    arrays = {}
    for field, name in DATASETS.items():
        array = to_float32(np.asarray(getattr(scene, field)))
        arrays[name] = array[keep] if name in ("triangles", "vn", "texture") else array
    arrays["texture"] = to_float16(arrays["texture"], "texture")
    return arrays


def _write(file: h5py.File, arrays: dict[str, np.ndarray], full_texture: bool) -> None:
    texture = arrays["texture"]
    if full_texture and texture.ndim == 2:
        arrays = {name: array for name, array in arrays.items() if name != "texture"}
        shape = (*texture.shape, PUBLISHED_TEXTURE_SIZE, PUBLISHED_TEXTURE_SIZE)
        chunks = (min(64, len(texture)), *shape[1:])
        dataset = file.create_dataset("texture", shape, "f2", chunks=chunks, compression="gzip")
        for start in range(0, len(texture), _CHUNK):
            dataset[start : start + _CHUNK] = expand_texture(texture[start : start + _CHUNK])
    for name, array in arrays.items():
        file.create_dataset(name, data=array, compression="gzip")
