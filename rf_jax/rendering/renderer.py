"""The renderer: compiled stages, one program a shape bucket, and the only log-decode."""

import collections
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.compilation import enable_compilation_cache
from rf_jax.errors import InputError
from rf_jax.images.radiance import linear_radiance
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.rendering.preprocess import batched, prepare_scene
from rf_jax.structs import Scene, SceneEncoding
from rf_jax.weights.pretrained import load_pretrained, with_attention

PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
"""Compute types of matrix products; all else is float32 in each of them."""

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "assets" / "models" / "rooms"
"""A small network for the world of `configs/data_rooms.py`; its card is beside it."""


class Renderer:
    """Renders scenes with one network.

    Attributes:
      config: the network's configuration.
      seconds: wall time spent so far, by phase: "compile", "view-independent", "view-dependent".
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
    ):
        """Puts a network on the default device.

        Args:
          variables: of `load_pretrained`, or of `RenderFormer.init`.
          config: their configuration.
          precision: "fp32" (strict), "bf16" or "fp16".
          attention: the name of an attention function for both stages, or "first,second"; None
            takes those that the configuration names.

        Raises:
          InputError: unknown names, or an attention that these weights cannot go with.
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
        self.seconds: collections.Counter[str] = collections.Counter()
        self.program_bytes: dict[str, int] = {}
        self._precision = precision
        self._model = RenderFormer(config, dtype)
        self._variables = jax.device_put(_cast_variables(variables, dtype))
        self._programs: dict[Any, jax.stages.Compiled] = {}

    @classmethod
    def from_pretrained(
        cls, path: str | Path, precision: str = "fp32", attention: str | None = None
    ) -> "Renderer":
        """A renderer with the weights at `path` (see `load_pretrained`).

        Turns JAX's persistent compilation cache on, in ~/.cache/rf_jax, unless a folder is set.

        Raises:
          InputError: weights that cannot be read, unknown names.
        """
        enable_compilation_cache()
        network = load_pretrained(path)
        return cls(network.variables, network.config, precision, attention)

    def render(self, scene: Scene, resolution: int = 512, batch_size: int = 1) -> np.ndarray:
        """Renders all views.

        Args:
          scene: batched or not; left as it is.
          resolution: image side in pixels.
          batch_size: views rendered at once; more fill a large GPU better and need more memory.

        Returns:
          [B, V, H, W, C] linear radiance, float32; B = 1 for a scene that is not batched.

        Raises:
          InputError: a bad scene or resolution, or a result that is not finite.
        """
        self.check_resolution(resolution)
        encoding = self.encode_scene(scene)
        scene = batched(scene)
        cameras = scene.camera_to_world, scene.fov_degrees
        return np.stack(list(self.render_views(encoding, *cameras, resolution, batch_size)), axis=1)

    def check_resolution(self, resolution: int) -> None:
        """Raises an InputError for a resolution that the network cannot render."""
        multiple = self.config.resolution_multiple
        if resolution < multiple or resolution % multiple:
            raise InputError(
                f"resolution: expected a positive multiple of {multiple} for this network, "
                f"found {resolution}"
            )

    def encode_scene(self, scene: Scene) -> SceneEncoding:
        """Runs the view-independent stage once for all views of B scenes."""
        tokens = jax.device_put(prepare_scene(scene, self.config))

        def encode(variables, tokens):
            return self._model.apply(variables, tokens, method=RenderFormer.encode_scene)

        return self._run("view-independent", encode, self._variables, tokens)

    def render_views(
        self,
        encoding: SceneEncoding,
        camera_to_world: np.ndarray,
        fov_degrees: np.ndarray,
        resolution: int,
        batch_size: int = 1,
    ) -> Iterator[np.ndarray]:
        """Images of encoded scenes, view by view.

        Args:
          encoding: of B scenes.
          camera_to_world: [B, V, 4, 4].
          fov_degrees: [B, V].
          resolution, batch_size: as of `render`.

        Yields:
          [B, H, W, C] linear radiance of the next view.
        """
        self.check_resolution(resolution)

        def render(variables, encoding, camera_to_world, fov_degrees, *, resolution):
            image, _ = self._model.apply(
                variables,
                encoding,
                camera_to_world,
                fov_degrees,
                resolution,
                method=RenderFormer.render_view,
            )
            return image if self.config.use_ldr else linear_radiance(image)

        views = fov_degrees.shape[1]
        batch_size = min(batch_size, views)
        for start in range(0, views, batch_size):
            # The last batch repeats its last view, so that one program serves all.
            chosen = np.minimum(np.arange(start, start + batch_size), views - 1)
            cameras = (camera_to_world[:, chosen], fov_degrees[:, chosen])
            cameras = jax.device_put([np.asarray(a, np.float32) for a in cameras])
            image = self._run(
                "view-dependent",
                render,
                self._variables,
                encoding,
                *cameras,
                resolution=resolution,
            )
            image = np.asarray(image)
            self._check_finite(image)
            for i in range(min(batch_size, views - start)):
                yield image[:, i]

    def _run(self, stage, function, *args, **static):
        """Calls a function compiled for these shapes, and counts the seconds."""
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        program = (stage, structure, shapes, *static.values())
        if program not in self._programs:
            start = time.perf_counter()
            lowered = jax.jit(functools.partial(function, **static)).lower(*args)
            self._programs[program] = compiled = lowered.compile()
            self.program_bytes[stage] = _memory_bytes(compiled)
            self.seconds["compile"] += time.perf_counter() - start
        start = time.perf_counter()
        result = jax.block_until_ready(self._programs[program](*args))
        self.seconds[stage] += time.perf_counter() - start
        return result

    def _check_finite(self, image: np.ndarray) -> None:
        bad = int(image.size - np.isfinite(image).sum())
        if bad:
            raise InputError(
                f"{bad} of {image.size} rendered values are not finite with {self._precision}"
                "; check the weights, or use a wider precision (bf16, fp32)"
            )


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
    """Kernels in the compute type, the rest (norms, tokens, biases, frequencies) in float32."""

    def cast(path, leaf):
        return leaf.astype(dtype if path[-1].key == "kernel" else np.float32)

    return jax.tree_util.tree_map_with_path(cast, variables)
