"""Training data: padded batches of scenes and images, read from HDF5 files.

Each batch is a pure function of the seed and the batch's number. Its files follow from
`rf_jax.training.order`. The views, crop and motion of a sample are drawn by a generator that is
seeded with the sample's position. A resumed run therefore needs to know only its step, on any
number of processes.
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
import jax.numpy as jnp
import numpy as np

from rf_jax.errors import InputError
from rf_jax.processes import end_with_parent, interrupts_held_back, kill_workers
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.scene.h5 import load_h5, load_images
from rf_jax.structs import NUM_CHANNELS, Batch, Scene, SceneTokens, expand_texture
from rf_jax.training.augment import draw_crops, draw_views, random_rigid_motion
from rf_jax.training.config import TrainingConfig
from rf_jax.training.order import BatchOrder

MAX_ATTEMPTS = 10
"""How many files are tried for one sample."""

MAX_DEATHS = 3
"""How often worker processes may die before the batch that is waited for has been read."""


class StopsRun(InputError):
    """The error of a file that must not be skipped, according to the configuration."""


@dataclasses.dataclass(frozen=True)
class SceneLoader:
    """Reads single samples; the reading processes get a pickled copy.

    Attributes:
      files: all files of the split, in the same order on every process.
      config: the run.
      training: whether to shuffle files, draw views, crop and augment; otherwise files are read in
        order, with their first views.
      lengths: what each scene is padded to, see
        `rf_jax.training.scene_files.padded_lengths`; None pads all to
        `config.data.max_triangles`. It orders the files, too.
    """

    files: tuple[Path, ...]
    config: TrainingConfig
    training: bool
    lengths: tuple[int, ...] | None = None

    @functools.cached_property
    def _order(self) -> BatchOrder:
        lengths = self.lengths or (self.config.data.max_triangles,) * len(self.files)
        return BatchOrder(lengths, self.config.batch_size, self.config.seed, self.training)

    def load(self, position: int) -> tuple[Batch, list[str]]:
        """Reads sample number `position` of the endless stream.

        A file that cannot be used is replaced by another one, drawn at random.

        Returns:
          a `Batch` of one scene without the leading axis, and a message for each skipped file.

        Raises:
          StopsRun: a file must not be skipped.
          InputError: `MAX_ATTEMPTS` files in a row cannot be used.
        """
        messages: list[str] = []
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng([self.config.seed, position, attempt])
            index = self._order.file_index(position)
            if attempt:
                index = self._order.draw_other(position, rng)
            try:
                return self._read(index, position, rng, len(messages)), messages
            except StopsRun:
                raise
            except InputError as error:
                messages.append(str(error))
        raise InputError(f"{MAX_ATTEMPTS} files in a row cannot be used; the first: {messages[0]}")

    def _read(self, index: int, position: int, rng: np.random.Generator, skipped: int) -> Batch:
        path, config, data = self.files[index], self.config, self.config.data
        scene = load_h5(path)
        self._check_scene(path, scene)
        available = len(scene.fov_degrees)
        chosen = draw_views(rng, available, data.views) if self.training else range(data.views)
        chosen = list(chosen)
        # Denoisers may leave values below 0.
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
        length = self._order.padded_length(position)
        if len(scene.triangles) > length:
            raise InputError(
                f"{path}: has {len(scene.triangles)} triangles, more than the index says; make the "
                "index anew"
            )
        tokens = prepare_scene(self._with_texture(path, scene), config.model, length)
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
        """The scene with one value per triangle or with patches, as the run is configured."""
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
def abstract_batch(config: TrainingConfig) -> Batch:
    """Shapes and types of a run's batches, as `jax.ShapeDtypeStruct`."""
    data = config.data
    views, triangles, side = data.views, data.max_triangles, data.crop or data.resolution
    texels = () if data.constant_textures else (config.model.texture_encode_patch_size,) * 2

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)

    return Batch(
        tokens=SceneTokens(
            triangles=array(triangles, 3, 3),
            vertex_normals=array(triangles, 3, 3),
            texture=array(triangles, NUM_CHANNELS, *texels),
            num_triangles=array(dtype=jnp.int32),
        ),
        camera_to_world=array(views, 4, 4),
        fov_degrees=array(views),
        images=array(views, side, side, 3, dtype=jnp.float16),
        crop_origin=array(views, 2, dtype=jnp.int32),
        rotation=array(3, 3),
        translation=array(3),
        weight=array(),
        file=array(dtype=jnp.int32),
        skipped=array(dtype=jnp.int32),
    )


class BatchStream(Iterator[Batch]):
    """Batches from number `start` on, read ahead by worker processes.

    Raises an InputError when a sample cannot be read or worker processes die again and again.
    """

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
          loader: reads the samples.
          batch_size: B of all processes together.
          start, stop: numbers of the first batch and of the one after the last; None never stops.
          shard: the index of this process and the number n of processes; each reads its own B / n
            rows of every batch.
        """
        index, count = shard
        rows = batch_size // count
        self._positions = (
            range(step * batch_size + index * rows, step * batch_size + (index + 1) * rows)
            for step in _count(start, stop)
        )
        self._loader = loader
        self._executor, self._load = _start_reading(loader)
        self._pending: collections.deque[tuple[range, list[Future]]] = collections.deque()
        for _ in range(loader.config.data.prefetch):
            self._submit()

    def __next__(self) -> Batch:
        if not self._pending:
            raise StopIteration
        samples, messages = zip(*self._first_pending(), strict=True)
        self._pending.popleft()
        self._submit()
        for message in itertools.chain(*messages):
            logging.warning("skipped: %s", message)
        return jax.tree.map(lambda *rows: np.stack(rows), *samples)

    def close(self) -> None:
        """Stops reading and ends the workers."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _first_pending(self) -> list[tuple[Batch, list[str]]]:
        """The samples of the next batch; replaces workers that died, a few times."""
        for _ in range(MAX_DEATHS):
            try:
                return [future.result() for future in self._pending[0][1]]
            except BrokenProcessPool:
                logging.warning("a process that reads data died (out of memory?); it is replaced")
                self._restart()
        raise InputError(
            f"processes that read data died {MAX_DEATHS} times at one batch (out of memory?); "
            "lower config.data.workers"
        )

    def _restart(self) -> None:
        # The executor would wait for the others, which ignore SIGTERM.
        kill_workers(self._executor)
        self._executor.shutdown(wait=True)
        self._executor, self._load = _start_reading(self._loader)
        self._pending = collections.deque(
            (positions, self._start(positions)) for positions, _ in self._pending
        )

    def _submit(self) -> None:
        positions = next(self._positions, None)
        if positions is not None:
            self._pending.append((positions, self._start(positions)))

    def _start(self, positions: range) -> list[Future]:
        try:
            with interrupts_held_back():  # the executor starts its processes here
                return [self._executor.submit(self._load, position) for position in positions]
        except BrokenProcessPool as error:  # is handled when the samples are wanted
            broken: Future = Future()
            broken.set_exception(error)
            return [broken]


def _count(start: int, stop: int | None) -> Iterator[int]:
    step = start
    while stop is None or step < stop:
        yield step
        step += 1


Load = Callable[[int], tuple[Batch, list[str]]]
"""`SceneLoader.load` of some loader."""


def _start_reading(loader: SceneLoader) -> tuple[Executor, Load]:
    """Starts an executor, and returns it with the function to submit to it."""
    workers = loader.config.data.workers
    if workers == 0:
        return ThreadPoolExecutor(1), loader.load
    # A fork of a process in which JAX runs threads may deadlock.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start_worker, (loader,))
    return executor, _load_in_worker


def _start_worker(loader: SceneLoader) -> None:
    """Keeps the loader in the worker process, and makes the process end with its parent."""
    global _worker_loader
    _worker_loader = loader
    # SLURM sends this signal to all processes; the parent handles it, and workers end with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def _load_in_worker(position: int) -> tuple[Batch, list[str]]:
    return _worker_loader.load(position)
