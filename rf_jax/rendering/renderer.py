"""The renderer: the network's two stages, compiled once per shape, from scenes to linear images."""

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
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.structs import Scene, SceneEncoding
from rf_jax.weights.pretrained import load_pretrained, with_attention

PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
"""The compute type of matrix products by the precision's name; everything else is float32."""

BUNDLED_WEIGHTS = Path(__file__).parents[1] / "assets" / "models" / "rooms"
"""A small network for the scenes of `configs/data_rooms.py`; README.md beside it describes it."""


class Renderer:
    """Renders scenes with one network.

    Attributes:
      config: the network's configuration.
      seconds: wall time spent so far by phase: "compile", "view-independent", "view-dependent".
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
          variables: what `load_pretrained` or `RenderFormer.init` returned.
          config: the configuration that the variables belong to.
          precision: a key of `PRECISIONS`; "fp32" multiplies in full float32.
          attention: the name of an attention function for both stages, or "first,second"; None
            takes those that the configuration names.

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

        Also turns on JAX's persistent compilation cache (see `enable_compilation_cache`).

        Raises:
          InputError: weights that cannot be read, or unknown names.
        """
        enable_compilation_cache()
        network = load_pretrained(path)
        return cls(network.variables, network.config, precision, attention)

    def render(self, scene: Scene, resolution: int = 512, batch_size: int = 1) -> np.ndarray:
        """Renders all views of a scene.

        Args:
          scene: batched or not; it is not modified.
          resolution: image side in pixels.
          batch_size: views rendered at once; more use a large GPU better and need more memory.

        Returns:
          [B, V, H, W, C] linear radiance, float32; B = 1 for a scene that is not batched.

        Raises:
          InputError: a bad scene or resolution, or a result that is not finite.
        """
        self.check_resolution(resolution)
        encoding = self.encode_scene(scene)
        cameras = scene.camera_to_world, scene.fov_degrees
        return np.stack(list(self.render_views(encoding, *cameras, resolution, batch_size)), axis=1)

    def check_resolution(self, resolution: int) -> None:
        """Raises InputError for a resolution that the network cannot render."""
        multiple = self.config.resolution_multiple
        if resolution < multiple or resolution % multiple:
            raise InputError(
                f"resolution: expected a positive multiple of {multiple} for this network, "
                f"found {resolution}"
            )

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

        return self._run("view-independent", encode, self._variables, tokens)

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
        self.check_resolution(resolution)
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
            image = self._run("view-dependent", self._render, *arguments, resolution=resolution)
            image = np.asarray(image)
            self._check_finite(image)
            for i in range(min(batch_size, views - start)):
                yield image[:, i]

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

    def _run(self, stage, function, *args, **static):
        """Calls a function, compiled once per combination of shapes, and counts the seconds."""
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
    """Casts kernels to the compute type; norms, tokens, biases and frequencies to float32."""

    def cast(path, leaf):
        return leaf.astype(dtype if path[-1].key == "kernel" else np.float32)

    return jax.tree_util.tree_map_with_path(cast, variables)
