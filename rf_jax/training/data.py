"""Training data: HDF5 files to padded batches, each a pure function of the seed and its number.

Epoch by epoch all files in a new order; the views, crops and motions of a sample are drawn by a
generator of its position. So the data position of a run is its step, on any number of processes.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
import numpy as np

from rf_jax.errors import InputError
from rf_jax.processes import end_with_parent
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.scene.dataset import find_files
from rf_jax.scene.h5 import images_side, load_h5, load_images
from rf_jax.structs import Batch, Scene, expand_texture
from rf_jax.training.augment import draw_crops, draw_views, random_rigid_motion
from rf_jax.training.config import TrainingConfig

MAX_ATTEMPTS = 10
CHECKED_FILES = 16


class StopsRun(InputError):
    """A file that the configuration does not allow to be skipped: it ends the run."""


def find_training_files(config: TrainingConfig, split: str) -> list[Path]:
    """Files of a split, "train" or "val"; [] where there are no validation files.

    Without an index.jsonl all files are for training. With one, scenes that are too large are left
    out here where they are to be skipped.

    Raises:
      InputError: no files, files of another resolution or without images.
    """
    data = config.data
    whole = split == "val" and data.validation_path is not None
    folder = Path(data.validation_path if whole else data.path)
    rows = find_files(folder, None if whole else split)
    limit = data.max_triangles if data.oversize == "skip" else np.inf
    files = [path for path, triangles in rows if triangles is None or triangles <= limit]
    if len(files) < len(rows):
        logging.warning(
            "%s: %d of %d %s scenes have more than %d triangles and are left out",
            *(folder, len(rows) - len(files), len(rows), split, limit),
        )
    if not files and split == "train":
        raise InputError(f"{folder}: expected .h5 files to train on, found none")
    for path in files[:: max(len(files) // CHECKED_FILES, 1)]:
        _check_images(path, config)
    return files


def _check_images(path: Path, config: TrainingConfig) -> None:
    try:
        side = images_side(path)
    except InputError as error:
        if path.is_file() and "img" not in str(error):
            return  # damaged: skipped and counted when it is read
        raise
    if side != config.data.resolution:
        raise InputError(
            f"{path}: expected images of {config.data.resolution} pixels a side as "
            f"config.data.resolution says, found {side}; keep resolutions in separate folders"
        )


@dataclasses.dataclass(frozen=True)
class SceneLoader:
    """Reads single samples; pickled into the reading processes.

    Attributes:
      files: all of them, the same on every process.
      config: the run's.
      training: shuffle, draw views, crop and move; else files in order, their first views.
    """

    files: tuple[Path, ...]
    config: TrainingConfig
    training: bool

    def load(self, position: int) -> tuple[Batch, list[str]]:
        """Sample number `position` of the endless stream.

        A file that cannot be used is replaced by another, drawn at random.

        Returns:
          a batch of one without its leading axis, and a message for each file skipped.

        Raises:
          InputError: ten unusable files in a row.
        """
        messages: list[str] = []
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng([self.config.seed, position, attempt])
            index = self._file_index(position) if attempt == 0 else rng.integers(len(self.files))
            try:
                return self._read(int(index), position, rng, len(messages)), messages
            except StopsRun:
                raise
            except InputError as error:
                messages.append(str(error))
        raise InputError(f"{MAX_ATTEMPTS} files in a row cannot be used; the first: {messages[0]}")

    def _file_index(self, position: int) -> int:
        epoch, index = divmod(position, len(self.files))
        if not self.training:
            return index
        return int(_permutation(self.config.seed, epoch, len(self.files))[index])

    def _read(self, index: int, position: int, rng: np.random.Generator, skipped: int) -> Batch:
        path, config, data = self.files[index], self.config, self.config.data
        scene = load_h5(path)
        self._check_scene(path, scene)
        available = len(scene.fov_degrees)
        chosen = draw_views(rng, available, data.views) if self.training else range(data.views)
        chosen = list(chosen)
        # Denoisers undershoot.
        images = np.maximum(load_images(path, chosen)[..., :3], 0)
        if images.shape[1] != data.resolution:
            raise InputError(
                f"{path}: img: expected {data.resolution} pixels, found {images.shape[1]}"
            )
        origin = np.zeros((data.views, 2), np.int32)
        if self.training and data.crop is not None:
            side, multiple = data.crop, config.model.patch_size
            origin = draw_crops(rng, data.views, data.resolution, side, multiple)
            images = np.stack(
                [
                    image[i : i + side, j : j + side]
                    for image, (i, j) in zip(images, origin, strict=True)
                ]
            )
        motion = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
        if self.training and data.augment:
            motion = random_rigid_motion(rng)
        tokens = prepare_scene(self._with_texture(path, scene), config.model, data.max_triangles)
        return Batch(
            tokens=jax.tree.map(lambda x: x[0], tokens),
            camera_to_world=scene.camera_to_world[chosen],
            fov_degrees=scene.fov_degrees[chosen],
            images=images,
            crop_origin=origin,
            rotation=motion[0],
            translation=motion[1],
            weight=np.float32(self.training or position < len(self.files)),
            file=np.int32(index),
            skipped=np.int32(skipped),
        )

    def _check_scene(self, path: Path, scene: Scene) -> None:
        data, found = self.config.data, len(scene.triangles)
        if found > data.max_triangles:
            error = StopsRun if data.oversize == "error" else InputError
            raise error(
                f"{path}: expected at most {data.max_triangles} triangles "
                f"(config.data.max_triangles), found {found}"
            )
        if len(scene.fov_degrees) < data.views:
            raise InputError(
                f"{path}: expected at least {data.views} views (config.data.views), "
                f"found {len(scene.fov_degrees)}"
            )

    def _with_texture(self, path: Path, scene: Scene) -> Scene:
        """The scene with one value a triangle, or with patches, as the run has them."""
        size = self.config.model.texture_encode_patch_size
        if scene.texture.ndim == 4 and size > 1 and self.config.data.constant_textures:
            raise StopsRun(
                f"{path}: texture: has patches of several values; set "
                "config.data.constant_textures=False"
            )
        if scene.texture.ndim == 2 and size > 1 and not self.config.data.constant_textures:
            return scene.replace(texture=expand_texture(scene.texture, size))
        return scene


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class BatchStream(Iterator[Batch]):
    """Batches from number `start` on, read ahead by worker processes."""

    def __init__(
        self,
        loader: SceneLoader,
        batch_size: int,
        start: int = 0,
        stop: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        """Starts reading.

        Args:
          loader: of the samples.
          batch_size: B of all processes together.
          start, stop: batches to read; None: endless.
          shard: this process and the number of processes; each reads its own B / n rows.
        """
        index, count = shard
        rows = batch_size // count
        self._positions = (
            range(step * batch_size + index * rows, step * batch_size + (index + 1) * rows)
            for step in _count(start, stop)
        )
        self._executor, self._load = _start_reading(loader)
        self._pending: collections.deque[list[Future]] = collections.deque()
        for _ in range(loader.config.data.prefetch):
            self._submit()

    def __next__(self) -> Batch:
        if not self._pending:
            raise StopIteration
        try:
            samples, messages = zip(*(f.result() for f in self._pending[0]), strict=True)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that reads data died (out of memory?); lower config.data.workers"
            ) from error
        self._pending.popleft()
        self._submit()
        for message in itertools.chain(*messages):
            logging.warning("skipped: %s", message)
        return jax.tree.map(lambda *rows: np.stack(rows), *samples)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        positions = next(self._positions, None)
        if positions is not None:
            self._pending.append([self._executor.submit(self._load, p) for p in positions])


def _count(start: int, stop: int | None) -> Iterator[int]:
    step = start
    while stop is None or step < stop:
        yield step
        step += 1


Load = Callable[[int], tuple[Batch, list[str]]]


def _start_reading(loader: SceneLoader) -> tuple[Executor, Load]:
    """An executor, and what it is to be given."""
    workers = loader.config.data.workers
    if workers == 0:
        return ThreadPoolExecutor(1), loader.load
    # Forking a process that runs JAX's threads may deadlock.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start_worker, (loader,))
    return executor, _load_in_worker


def _start_worker(loader: SceneLoader) -> None:
    """Keeps the loader in the process, and ends it when its parent is killed."""
    global _worker_loader
    _worker_loader = loader
    # The parent handles these; workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def _load_in_worker(position: int) -> tuple[Batch, list[str]]:
    return _worker_loader.load(position)
