"""The renderers that run here, and a dataset that renders in a moment."""

import dataclasses
import functools

import pytest
from known_scenes import CONFIGS, CYCLES_PYTHON, UNBIASED

pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")

from renderer_process import RemoteTracer, RendererProcess

from rf_jax.config_files import load_config_file
from rf_jax.datagen.config import DataConfig, RenderConfig
from rf_jax.datagen.probe import find_llvm, renders


@functools.cache
def _missing(name: str) -> str:
    """Why a renderer cannot be tested here; empty if it can."""
    if name == "cycles":
        return "" if CYCLES_PYTHON else "RF_JAX_CYCLES_PYTHON names no Python with bpy"
    find_llvm()
    return "" if renders(name) else f"Mitsuba's {name} does not render here (LLVM 19 missing?)"


@pytest.fixture(scope="session")
def renderer_process():
    process = RendererProcess()
    yield process
    process.close()


@pytest.fixture(params=["scalar_rgb", "llvm_ad_rgb", "cycles"])
def make_tracer(request, renderer_process):
    """A function from render settings to each renderer that runs here, unbiased."""
    if reason := _missing(request.param):
        pytest.skip(reason)

    def make(**settings):
        config = RenderConfig(cycles=UNBIASED, **settings)
        return RemoteTracer(renderer_process, config, request.param)

    make.name = request.param
    return make


@pytest.fixture(scope="session")
def tiny_config():
    """A dataset whose scenes render in a moment."""
    config = load_config_file(DataConfig, str(CONFIGS / "data_tiny.py"))
    render = dataclasses.replace(
        config.render, resolution=16, spp=4, max_depth=3, denoise=False, variant="scalar_rgb"
    )
    return dataclasses.replace(config, render=render, num_scenes=3)
