"""The renderer: the network's two stages, compiled once per shape, from scenes to linear images."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rf_jax.compilation import enable_compilation_cache
from rf_jax.errors import InputError
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.rendering.generations import AnyScene, load_encoders, load_for, network_input
from rf_jax.rendering.programs import Programs
from rf_jax.rendering.sharding import (
    BY_VIEW,
    device_mesh,
    first_devices,
    is_split,
    is_worth_splitting,
    pad_tokens,
    put_everywhere,
)
from rf_jax.rendering.stages import cast_variables, encode, for_platform, render
from rf_jax.scene.check import log_warnings
from rf_jax.scene.latents import LatentEncoders
from rf_jax.scene.validate import with_view_axes
from rf_jax.structs import SceneEncoding
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_pretrained, with_attention

MAX_RESOLUTION = 16_384
"""Largest side of images in pixels: linear RGB then takes 3 GB, and the network far more."""

PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
"""The compute type of matrix products by the precision's name; everything else is float32."""

T = TypeVar("T")


class RunningViews(NamedTuple):
    """Views that devices are working on.

    Attributes:
      images: [B, n, H, W, C] linear radiance.
      count: how many of the n views are wanted; the others only fill the batch.
    """

    images: jax.Array
    count: int


class Renderer:
    """Renders scenes with one network.

    Attributes:
      config: the network's configuration.
      trained_on: the images and scenes that its weights were trained on.
      seconds: wall time that callers waited so far by phase: "compile", "view-independent",
        "view-dependent".
      program_bytes: memory that the latest program of each stage needs on a device, weights
        included.
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
        devices: int | None = None,
        latent_encoders: LatentEncoders | None = None,
        feed_forward: str | None = None,
    ):
        """Puts a network on the first device of this process.

        Args:
          variables: what `load_pretrained` or `RenderFormer.init` returned.
          config: the configuration that the variables belong to.
          precision: a key of `PRECISIONS`; "fp32" multiplies in full float32.
          attention: the name of an attention function for both stages, or "first,second"; None
            takes those that the configuration names.
          trained_on: what the weights were trained on, which decides the default resolution.
          devices: number of this process's devices; None takes all. They share the views of a
            scene, and the triangles of a large one (see `rf_jax.rendering.sharding`). Each gets a
            copy of the weights when it is needed.
          latent_encoders: encode materials and environments for a network of V2.
          feed_forward: "auto" or "fused" (`rf_jax.models.swiglu`); None takes what the
            configuration names.

        Raises:
          InputError: unknown names, more devices than there are, or an attention or a feed-forward
            network that does not go with these weights.
        """
        if precision not in PRECISIONS:
            raise InputError(
                f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}"
            )
        dtype = PRECISIONS[precision]
        trained_exact = _is_exact(config)
        if attention is not None:
            variables, config = with_attention(variables, config, attention)
        if feed_forward is not None:
            config = dataclasses.replace(config, feed_forward=feed_forward)
        self.approximates_exact_weights = trained_exact and not _is_exact(config)
        self.config = config
        self.trained_on = trained_on
        self._precision, self._encoders = precision, latent_encoders
        self._model = RenderFormer(config, dtype)
        self._devices = first_devices(devices)
        first = self._devices[0]
        variables = for_platform(cast_variables(variables, dtype), first.platform)
        self._variables = jax.device_put(variables, first)
        self._copies: dict[Mesh, dict[str, Any]] = {}  # the variables on several devices
        self._programs = Programs()
        self.seconds, self.program_bytes = self._programs.seconds, self._programs.program_bytes
        self._warned: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = BUNDLED_WEIGHTS,
        precision: str = "fp32",
        attention: str | None = None,
        devices: int | None = None,
        latent_encoders: str | Path | None = None,
        feed_forward: str | None = None,
    ) -> "Renderer":
        """A renderer with the weights at `path` (see `load_pretrained`); default: the bundled ones.

        Weights of RenderFormer V2 need the folder `latent_encoders` (see `load_latent_encoders`)
        for all scenes but HDF5 files that hold latents.

        Also turns on JAX's persistent compilation cache (see `enable_compilation_cache`).

        Raises:
          InputError: weights that cannot be read, unknown names, or more devices than there are.
        """
        enable_compilation_cache()
        network = load_pretrained(path)
        encoders = load_encoders(latent_encoders, network.config)
        arguments = network.variables, network.config, precision, attention, network.trained_on
        return cls(*arguments, devices, encoders, feed_forward)

    def network(self) -> tuple[RenderFormer, dict[str, Any]]:
        """The network and its variables on the first device, for programs of one's own.

        The variables are laid out by `rf_jax.rendering.stages.for_platform`; `encode` and `render`
        of that module take them, and on GPUs `model.apply` does not.
        """
        return self._model, self._variables

    def load_scene(self, path: str | Path) -> AnyScene:
        """Loads a scene, a file or a bundled one, in the form that this network renders fastest.

        Raises:
          InputError: as `rf_jax.scene.load_scene`, or the network cannot read the scene.
        """
        return load_for(self.config, path, self._encoders)

    def render(
        self,
        scene: AnyScene | Sequence[AnyScene],
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
          batch_size: views rendered at once on each device; more use a large GPU better and need
            more memory.

        Returns:
          [B, V, H, W, C] linear radiance, float32; B = 1 for a scene that is not batched. A list of
          these for a list of scenes.

        Raises:
          InputError: a bad scene, resolution or batch size, or a result that is not finite.
        """
        if not isinstance(scene, AnyScene):
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
        log_warnings(scene, self.trained_on, self._warned)
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
                f"images are square, found {resolution!r}"
            )
        if side > MAX_RESOLUTION:
            raise InputError(f"resolution: expected at most {MAX_RESOLUTION}, found {side}")
        return int(side)

    def encode_scene(self, scene: AnyScene) -> SceneEncoding:
        """Runs the view-independent stage, which serves all views.

        Args:
          scene: batched or not; one that is not becomes a batch of B = 1.

        Raises:
          InputError: a bad scene.
        """
        tokens, devices = network_input(scene, self.config, self._encoders), self._devices
        if is_worth_splitting(tokens, self._model, len(devices)):
            tokens = pad_tokens(tokens, self.config.num_register_tokens, len(devices))
        else:
            devices = devices[:1]
        mesh = device_mesh(devices)
        arguments = self._variables_on(mesh), put_everywhere(tokens, mesh)
        program = functools.partial(encode, self._model)
        encoding = self._programs.start("view-independent", program, *arguments, mesh=mesh)
        self._programs.wait()
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
    ) -> Iterator[RunningViews]:
        """Begins to render views, without waiting for the images.

        The device is busy while the caller works, if the caller takes the next images before it
        fetches these, as `one_behind` does.

        Args:
          encoding, camera_to_world, fov_degrees, resolution, batch_size: as in `render_views`.

        Yields:
          the next views, for `fetch`. All devices work on them.

        Raises:
          InputError: a resolution that the network cannot render, or a bad batch size.
        """
        resolution = self.check_resolution(resolution)
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, found {batch_size!r}")
        scenes = len(encoding.num_tokens)
        camera_to_world = np.asarray(camera_to_world, np.float32).reshape(scenes, -1, 4, 4)
        fov_degrees = np.asarray(fov_degrees, np.float32).reshape(scenes, -1)
        views = fov_degrees.shape[1]
        mesh = device_mesh(self._devices)
        split = is_split(encoding, mesh)
        if not split:
            mesh = device_mesh(self._devices[:views])
            encoding = put_everywhere(encoding, mesh)
        variables = self._variables_on(mesh)
        batch_size = min(batch_size, -(-views // mesh.size)) * mesh.size
        program = functools.partial(render, self._model)
        for start in range(0, views, batch_size):
            # The last batch repeats its last view, so that one program serves all batches.
            chosen = np.minimum(np.arange(start, start + batch_size), views - 1)
            cameras = camera_to_world[:, chosen], fov_degrees[:, chosen]
            cameras = jax.device_put(cameras, NamedSharding(mesh, BY_VIEW))
            arguments = (variables, encoding, *cameras)
            static = {"resolution": resolution, "mesh": mesh, "split": split}
            images = self._programs.start("view-dependent", program, *arguments, **static)
            yield RunningViews(images, min(batch_size, views - start))

    def fetch(self, views: RunningViews) -> Iterator[np.ndarray]:
        """Yields the views [B, H, W, C] of what `dispatch_views` yielded, as NumPy arrays.

        Raises:
          InputError: a result that is not finite.
        """
        start = time.perf_counter()
        images = np.asarray(views.images)[:, : views.count]
        self.seconds["view-dependent"] += time.perf_counter() - start
        self._check_finite(images)
        yield from images.swapaxes(0, 1)

    def _variables_on(self, mesh: Mesh) -> dict[str, Any]:
        """The variables on every device of a mesh; those on the last one of several are kept."""
        if mesh.size == 1:
            return self._variables
        if mesh not in self._copies:
            self._copies = {mesh: put_everywhere(self._variables, mesh)}
        return self._copies[mesh]

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
