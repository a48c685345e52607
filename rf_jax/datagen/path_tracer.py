"""The interface of the renderers that make ground truth, and the choice of one."""

import importlib.metadata
from typing import Protocol

import numpy as np

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.denoise import check_denoiser
from rf_jax.errors import InputError
from rf_jax.structs import Scene


class PathTracer(Protocol):
    """A renderer of ground truth.

    Attributes:
      name: the renderer and its version, which training files record.
    """

    name: str

    def render(self, scene: Scene, seed: int) -> np.ndarray:
        """Renders the views of a scene.

        Args:
          scene: an unbatched scene without a mask, with one texture value per triangle.
          seed: seed of the noise.

        Returns:
          [V, H, H, 4] float32: linear RGB, premultiplied, and coverage.
        """


def check_renderer(config: RenderConfig, cycles_python: str | None) -> str:
    """Finds out, before any work is done, what will render: `cycles` or a variant of Mitsuba.

    Raises:
      InputError: what the configuration asks for is not installed; says how to install it.
    """
    if config.renderer == "cycles":
        from rf_jax.datagen.cycles_renderer import check_cycles

        check_cycles(cycles_python)
        return "cycles"
    if cycles_python is not None:
        raise InputError(
            "--cycles_python: Mitsuba does not use it; add --config.render.renderer=cycles"
        )
    if config.denoise:
        check_denoiser()
    from rf_jax.datagen.probe import choose_variant

    return choose_variant(config.variant)


def make_path_tracer(
    config: RenderConfig, renderer: str, cycles_python: str | None, threads: int
) -> PathTracer:
    """Makes the renderer that `check_renderer` found, in this process."""
    if renderer == "cycles":
        from rf_jax.datagen.cycles_renderer import CyclesRenderer

        return CyclesRenderer(config, cycles_python, threads)
    from rf_jax.datagen.mitsuba_renderer import MitsubaRenderer

    return MitsubaRenderer(config, renderer, threads)


def denoiser_name(config: RenderConfig) -> str:
    """The denoiser and its version, which training files record; empty if there is none."""
    if not config.denoise:
        return ""
    if config.renderer == "cycles":
        return "OpenImageDenoise of Blender"
    return f"pyoidn {importlib.metadata.version('pyoidn')}"
