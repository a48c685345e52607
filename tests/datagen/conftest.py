"""The renderers there are, and a dataset that renders in a moment."""

import dataclasses
import functools

import pytest
from known_scenes import CONFIGS, CYCLES_PYTHON, UNBIASED

pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.path_tracer import make_path_tracer
from rf_jax.datagen.probe import find_llvm, renders


@functools.cache
def _missing(name: str) -> str:
    """Why a renderer cannot be tested here; empty if it can."""
    if name == "cycles":
        return "" if CYCLES_PYTHON else "RF_JAX_CYCLES_PYTHON names no Python with bpy"
    find_llvm()
    return "" if renders(name) else f"Mitsuba's {name} does not render here (LLVM 19 missing?)"


@pytest.fixture(params=["scalar_rgb", "llvm_ad_rgb", "cycles"])
def make_tracer(request):
    """A function from render settings to each renderer there is, unbiased."""
    if reason := _missing(request.param):
        pytest.skip(reason)

    def make(**settings):
        config = RenderConfig(cycles=UNBIASED, **settings)
        return make_path_tracer(config, request.param, CYCLES_PYTHON, 2)

    make.name = request.param
    return make


@pytest.fixture
def tiny_config():
    """A dataset whose scenes render in a moment."""
    from rf_jax.datagen.config import load_config

    config = load_config(str(CONFIGS / "data_tiny.py"))
    render = dataclasses.replace(
        config.render, resolution=16, spp=4, max_depth=3, denoise=False, variant="scalar_rgb"
    )
    return dataclasses.replace(config, render=render, num_scenes=3)
