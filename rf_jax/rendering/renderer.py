"""The renderer: the network's two stages, compiled once per shape, from scenes to linear images."""

import collections
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.compilation import enable_compilation_cache
from rf_jax.errors import InputError
from rf_jax.images.radiance import linear_radiance
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.scene.check import scene_warnings
from rf_jax.scene.validate import with_view_axes
from rf_jax.structs import Scene, SceneEncoding
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_pretrained, with_attention

PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
"""The compute type of matrix products by the precision's name; everything else is float32."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Renderer:
    """Renders scenes with one network.

    Attributes:
      config: the network's configuration.
      trained_on: the images and scenes that its weights were trained on.
      seconds: wall time that callers waited so far by phase: "compile", "view-independent",
        "view-dependent".
      program_bytes: memory that the latest program of each stage needs, weights included.
      approximates_exact_weights: whether the weights were trained with exact attention and the
        chosen attention is not exact.
    """

    def __init__(
        self,
        variables: dict[str, Any],
        config: RenderFormerConfig,
        precision: str = "fp32",
        attention: str | None = None,
        trained_on: TrainedOn = PUBLISHED,
    ):
        """Puts a network on the default device.

        Args:
          variables: what `load_pretrained` or `RenderFormer.init` returned.
          config: the configuration that the variables belong to.
          precision: a key of `PRECISIONS`; "fp32" multiplies in full float32.
          attention: the name of an attention function for both stages, or "first,second"; None
            takes those that the configuration names.
          trained_on: what the weights were trained on, which decides the default resolution.

        Raises:
          InputError: unknown names, or an attention that does not go with these weights.
        """
        if precision not in PRECISIONS:
            raise InputError(
                f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}"
            )
        dtype = PRECISIONS[precision]
        trained_exact = _is_exact(config)
        if attention is not None:
            variables, config = with_attention(variables, config, attention)
        self.approximates_exact_weights = trained_exact and not _is_exact(config)
        self.config = config
        self.trained_on = trained_on
        self.seconds: collections.Counter[str] = collections.Counter()
        self.program_bytes: dict[str, int] = {}
        self._precision = precision
        self._model = RenderFormer(config, dtype)
        self._variables = jax.device_put(_cast_variables(variables, dtype))
        self._programs: dict[Any, jax.stages.Compiled] = {}
        self._running: tuple[str, Any] | None = None  # the stage on the device, and its result
        self._warned: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUNDLED_WEIGHTS,
        precision: str = "fp32",
        attention: str | None = None,
    ) -> "Renderer":
        """A renderer with the weights at `path` (see `load_pretrained`); default: the bundled ones.

        Also turns on JAX's persistent compilation cache (see `enable_compilation_cache`).

        Raises:
          InputError: weights that cannot be read, or unknown names.
        """
        enable_compilation_cache()
        network = load_pretrained(path)
        return cls(network.variables, network.config, precision, attention, network.trained_on)

    def render(
        self,
        scene: Scene | Sequence[Scene],
        resolution: int | tuple[int, int] | None = None,
        batch_size: int = 1,
    ) -> np.ndarray | list[np.ndarray]:
        """Renders all views of a scene, or of several scenes.

        Logs a warning for each way in which a scene is unlike those that the weights were trained
        on, once per way (see `rf_jax.scene.check.scene_warnings`).

        Args:
          scene: batched or not; it is not modified. One camera may be given without its view axis,
            and one field of view for all cameras. Or a list of scenes, whose sizes may differ.
          resolution: image side in pixels; None takes that of the images that the weights were
            trained on.
          batch_size: views rendered at once; more use a large GPU better and need more memory.

        Returns:
          [B, V, H, W, C] linear radiance, float32; B = 1 for a scene that is not batched. A list of
          these for a list of scenes.

        Raises:
          InputError: a bad scene, resolution or batch size, or a result that is not finite.
        """
        if not isinstance(scene, Scene):
            if not isinstance(scene, list | tuple):
                raise InputError(
                    f"scene: expected a Scene or a list of scenes, found {type(scene).__name__}; "
                    "load_scene reads files"
                )
            return [self.render(single, resolution, batch_size) for single in scene]
        scene = with_view_axes(scene)
        resolution = self.trained_on.resolution if resolution is None else resolution
        resolution = self.check_resolution(resolution)
        encoding = self.encode_scene(scene)
        for field, line in scene_warnings(scene, self.trained_on).items():
            if field not in self._warned:
                self._warned.add(field)
                _log.warning("%s", line)
        cameras = scene.camera_to_world, scene.fov_degrees
        return np.stack(list(self.render_views(encoding, *cameras, resolution, batch_size)), axis=1)

    def check_resolution(self, resolution: int | tuple[int, int]) -> int:
        """The side of images in pixels.

        Args:
          resolution: the side, or (side, side).

        Raises:
          InputError: the network cannot render this resolution.
        """
        multiple = self.config.resolution_multiple
        side = resolution
        if isinstance(resolution, tuple | list) and len(set(resolution)) == 1:
            side = resolution[0]
        if not isinstance(side, int | np.integer) or side < multiple or side % multiple:
            raise InputError(
                f"resolution: expected a positive multiple of {multiple} for this network, whose "
                f"images are square, found {resolution}"
            )
        return int(side)

    def encode_scene(self, scene: Scene) -> SceneEncoding:
        """Runs the view-independent stage, which serves all views.

        Args:
          scene: batched or not; one that is not becomes a batch of B = 1.

        Raises:
          InputError: a bad scene.
        """
        tokens = jax.device_put(prepare_scene(scene, self.config))

        def encode(variables, tokens):
            return self._model.apply(variables, tokens, method=RenderFormer.encode_scene)

        encoding = self._start("view-independent", encode, self._variables, tokens)
        self._wait()
        return encoding

    def render_views(
        self,
        encoding: SceneEncoding,
        camera_to_world: np.ndarray,
        fov_degrees: np.ndarray,
        resolution: int,
        batch_size: int = 1,
    ) -> Iterator[np.ndarray]:
        """Renders encoded scenes view by view.

        Args:
          encoding: B scenes, as `encode_scene` returns them.
          camera_to_world: [(B,) V, 4, 4]; the batch axis may be left out for B = 1.
          fov_degrees: [(B,) V].
          resolution, batch_size: see `render`.

        Yields:
          [B, H, W, C] linear radiance of the next view.

        Raises:
          InputError: a resolution that the network cannot render, or a result that is not finite.
        """
        batches = self.dispatch_views(
            encoding, camera_to_world, fov_degrees, resolution, batch_size
        )
        for images in one_behind(batches):
            yield from self.fetch(images)

    def dispatch_views(
        self,
        encoding: SceneEncoding,
        camera_to_world: np.ndarray,
        fov_degrees: np.ndarray,
        resolution: int,
        batch_size: int = 1,
    ) -> Iterator[jax.Array]:
        """Begins to render views, without waiting for the images.

        The device is busy while the caller works, if the caller takes the next images before it
        fetches these, as `one_behind` does.

        Args:
          encoding, camera_to_world, fov_degrees, resolution, batch_size: as in `render_views`.

        Yields:
          [B, n, H, W, C] linear radiance of the next n views, for `fetch`.

        Raises:
          InputError: a resolution that the network cannot render, or a bad batch size.
        """
        resolution = self.check_resolution(resolution)
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, found {batch_size!r}")
        scenes = len(encoding.num_triangles)
        camera_to_world = np.asarray(camera_to_world, np.float32).reshape(scenes, -1, 4, 4)
        fov_degrees = np.asarray(fov_degrees, np.float32).reshape(scenes, -1)
        views = fov_degrees.shape[1]
        batch_size = min(batch_size, views)
        for start in range(0, views, batch_size):
            # The last batch repeats its last view, so that one program serves all batches.
            chosen = np.minimum(np.arange(start, start + batch_size), views - 1)
            cameras = jax.device_put((camera_to_world[:, chosen], fov_degrees[:, chosen]))
            arguments = (self._variables, encoding, *cameras)
            images = self._start("view-dependent", self._render, *arguments, resolution=resolution)
            count = min(batch_size, views - start)
            yield images if count == batch_size else images[:, :count]

    def fetch(self, images: jax.Array) -> Iterator[np.ndarray]:
        """Yields the views [B, H, W, C] of what `dispatch_views` yielded, as NumPy arrays.

        Raises:
          InputError: a result that is not finite.
        """
        start = time.perf_counter()
        images = np.asarray(images)
        self.seconds["view-dependent"] += time.perf_counter() - start
        self._check_finite(images)
        yield from images.swapaxes(0, 1)

    def _render(self, variables, encoding, camera_to_world, fov_degrees, *, resolution):
        image, _ = self._model.apply(
            variables,
            encoding,
            camera_to_world,
            fov_degrees,
            resolution,
            method=RenderFormer.render_view,
        )
        return image if self.config.use_ldr else linear_radiance(image)

    def _start(self, stage, function, *args, **static):
        """Starts a function, compiled once per combination of shapes, after the one before it."""
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        program = (stage, structure, shapes, *static.values())
        if program not in self._programs:
            start = time.perf_counter()
            lowered = jax.jit(functools.partial(function, **static)).lower(*args)
            self._programs[program] = compiled = lowered.compile()
            self.program_bytes[stage] = _memory_bytes(compiled)
            self.seconds["compile"] += time.perf_counter() - start
        self._wait()
        start = time.perf_counter()
        result = self._programs[program](*args)
        self._running = stage, result
        self.seconds[stage] += time.perf_counter() - start
        return result

    def _wait(self):
        """Waits for the running stage and counts the seconds as its own."""
        if self._running is not None:
            stage, result = self._running
            start = time.perf_counter()
            jax.block_until_ready(result)
            self.seconds[stage] += time.perf_counter() - start
            self._running = None

    def _check_finite(self, image: np.ndarray) -> None:
        bad = int(image.size - np.isfinite(image).sum())
        if bad:
            raise InputError(
                f"{bad} of {image.size} rendered values are not finite with {self._precision}"
                "; check the weights, or use a wider precision (bf16, fp32)"
            )


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """The same items, each yielded when the next one has been taken from `items`.

    If `items` raises an error, the last item is yielded before it.
    """
    waiting: list[T] = []
    try:
        for item in items:
            waiting.append(item)
            if len(waiting) == 2:
                yield waiting.pop(0)
    except Exception:
        yield from waiting
        raise
    yield from waiting


def _is_exact(config: RenderFormerConfig) -> bool:
    return config.view_independent.attention.exact and config.view_dependent.attention.exact


def _memory_bytes(compiled: jax.stages.Compiled) -> int:
    analysis = compiled.memory_analysis()
    sizes = (
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.temp_size_in_bytes,
    )
    return sum(sizes)


def _cast_variables(variables: dict[str, Any], dtype: jnp.dtype) -> dict[str, Any]:
    """Casts kernels to the compute type; norms, tokens, biases and frequencies to float32."""

    def cast(path, leaf):
        return leaf.astype(dtype if path[-1].key == "kernel" else np.float32)

    return jax.tree_util.tree_map_with_path(cast, variables)
