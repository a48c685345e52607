"""The files that a run trains on or validates on, and to what length their scenes are padded."""

import logging
from pathlib import Path

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene.dataset import find_files
from rf_jax.scene.h5 import has_images, images_side
from rf_jax.training.config import TrainingConfig

CHECKED_FILES = 16
"""About how many files are checked before the run starts."""


def find_training_files(config: TrainingConfig, split: str) -> list[Path]:
    """Finds the files of a split.

    Without an index.jsonl all files are for training. If there is one, scenes that are too large
    are left out here, unless they are to end the run.

    Args:
      config: the run.
      split: "train" or "val".

    Returns:
      the files; none if there are no validation files.

    Raises:
      InputError: there are no files to train on, or some of the files have another resolution or no
        images.
    """
    folder, rows = _indexed_files(config, split)
    files = [path for path, _ in _within_limit(config, rows)]
    if len(files) < len(rows):
        logging.warning(
            "%s: %d of %d %s scenes have more than %d triangles and are left out",
            *(folder, len(rows) - len(files), len(rows), split, config.data.max_triangles),
        )
    if not files and split == "train":
        raise InputError(f"{folder}: expected .h5 files to train on, found none")
    for path in files[:: max(len(files) // CHECKED_FILES, 1)]:
        _check_images(path, config)
    return files


def padded_lengths(config: TrainingConfig, split: str) -> tuple[int, ...]:
    """The number of triangles that the scene of each file of `find_training_files` is padded to.

    Raises:
      InputError: lengths differ, and the folder has no index that says how long scenes are.
    """
    folder, rows = _indexed_files(config, split)
    lengths = config.data.lengths
    found = [triangles for _, triangles in _within_limit(config, rows)]
    if len(lengths) > 1 and None in found:
        raise InputError(
            f"{folder}: expected an index.jsonl with the triangles of each scene, which "
            "config.data.shorter_lengths needs, found none; leave that key out"
        )
    if len(lengths) == 1:
        return lengths * len(found)
    places = np.minimum(np.searchsorted(lengths, found), len(lengths) - 1)
    return tuple(lengths[place] for place in places)


Rows = list[tuple[Path, int | None]]
"""Files and, if there is an index, their numbers of triangles."""


def _indexed_files(config: TrainingConfig, split: str) -> tuple[Path, Rows]:
    """The folder and the files of a split."""
    data = config.data
    whole = split == "val" and data.validation_path is not None
    folder = Path(data.validation_path if whole else data.path)
    return folder, find_files(folder, None if whole else split)


def _within_limit(config: TrainingConfig, rows: Rows) -> Rows:
    """The files but for those that are too large, unless these are to end the run."""
    limit = config.data.max_triangles if config.data.oversize == "skip" else np.inf
    return [(path, triangles) for path, triangles in rows if (triangles or 0) <= limit]


def _check_images(path: Path, config: TrainingConfig) -> None:
    """Checks that a file has images of the run's resolution."""
    try:
        side = images_side(path) if has_images(path) else None
    except InputError:
        if not path.is_file():
            raise
        return  # a damaged file is skipped and counted when it is read
    if side is None:
        raise InputError(f"{path}: img: missing; expected a training file with images")
    if side != config.data.resolution:
        raise InputError(
            f"{path}: expected images of {config.data.resolution} pixels a side as "
            f"config.data.resolution says, found {side}; keep resolutions in separate folders"
        )
