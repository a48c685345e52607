"""Ground truth behind one interface; here it is decided which renderer makes it."""

import importlib.metadata
from typing import Protocol

import numpy as np

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.denoise import check_denoiser
from rf_jax.errors import InputError
from rf_jax.structs import Scene


class PathTracer(Protocol):
    """A renderer of ground truth; `name` says which, with its version."""

    name: str

    def render(self, scene: Scene, seed: int) -> np.ndarray:
        """Linear images of the scene's views, [V, H, W, 4] float32: premultiplied RGB, coverage."""


def check_renderer(config: RenderConfig, cycles_python: str | None) -> str:
    """Finds out, once and before any work, what will render: `cycles`, or a variant of Mitsuba.

    Raises:
      InputError: what the configuration asks for is not there; says how to get it.
    """
    if config.renderer == "cycles":
        from rf_jax.datagen.cycles_renderer import check_cycles

        check_cycles(cycles_python)
        return "cycles"
    if cycles_python is not None:
        raise InputError(
            "--cycles_python: of no use to Mitsuba; add --config.render.renderer=cycles"
        )
    if config.denoise:
        check_denoiser()
    from rf_jax.datagen.probe import choose_variant

    return choose_variant(config.variant)


def make_path_tracer(
    config: RenderConfig, renderer: str, cycles_python: str | None, threads: int
) -> PathTracer:
    """The renderer that `check_renderer` found, in this process."""
    if renderer == "cycles":
        from rf_jax.datagen.cycles_renderer import CyclesRenderer

        return CyclesRenderer(config, cycles_python, threads)
    from rf_jax.datagen.mitsuba_renderer import MitsubaRenderer

    return MitsubaRenderer(config, renderer, threads)


def denoiser_name(config: RenderConfig) -> str:
    """What denoised the images, for the record; empty if nothing did."""
    if not config.denoise:
        return ""
    if config.renderer == "cycles":
        return "OpenImageDenoise of Blender"
    return f"pyoidn {importlib.metadata.version('pyoidn')}"
