"""Ground-truth images of scene files: EXR files beside them, or images within HDF5 files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.scene.h5 import has_images, load_images


def ground_truth_path(path: str | Path, view: int, folder: str | Path | None = None) -> Path:
    """Path of the EXR file of one view of a scene file, beside it or in `folder`."""
    path = Path(path)
    return Path(folder or path.parent) / f"{path.stem}_truth_view_{view}.exr"


def load_ground_truth(path: str | Path, views: Sequence[int]) -> np.ndarray | None:
    """Reads the ground truth of some views of a scene file.

    It is read from the files `NAME_truth_view_V.exr` beside the scene file NAME, or, where one of
    these is missing, from the images within an HDF5 file.

    Args:
      path: the scene file.
      views: indices of the views, at least one, in any order.

    Returns:
      [V, H, H, 3] linear radiance, float32; None unless all these views have ground truth.

    Raises:
      InputError: names the file that is damaged, not square, or of another size than the first.
    """
    path = Path(path)
    files = [ground_truth_path(path, view) for view in views]
    if all(file.exists() for file in files):
        return _load_exrs(files)
    if path.suffix.lower() in (".h5", ".hdf5") and has_images(path):
        return load_images(path, views)[..., :3].astype(np.float32)
    return None


def _load_exrs(files: list[Path]) -> np.ndarray:
    images = [load_exr(file)[..., :3] for file in files]
    side = len(images[0])
    for file, image in zip(files, images, strict=True):
        if image.shape != (side, side, 3):
            height, width, _ = image.shape
            raise InputError(f"{file}: expected {side}x{side} pixels, found {width}x{height}")
    return np.stack(images)
