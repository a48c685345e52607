"""Small data, and stand-in weights of LPIPS: the real ones need a network."""

import itertools

import h5py
import jax
import numpy as np
import pytest
from scenes import write_scenes

VGG_LAYERS = {
    1: (3, 64, 64),
    2: (64, 128, 128),
    3: (128, 256, 256, 256),
    4: (256, 512, 512, 512),
    5: (512, 512, 512, 512),
}
"""Channels of the five blocks of VGG-16."""


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """All programs are kept for other tests and processes; most optimizations are left out."""
    changes = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Ten scenes of 16x16 pixels."""
    return write_scenes(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory):
    """A folder of random weights in the layout of lpips-j."""
    folder = tmp_path_factory.mktemp("lpips")
    rng = np.random.default_rng(0)
    with h5py.File(folder / "vgg16_weights.h5", "w") as file:
        for block, channels in VGG_LAYERS.items():
            for i, (fan_in, out) in enumerate(itertools.pairwise(channels), 1):
                weight = rng.normal(0, (2 / (9 * fan_in)) ** 0.5, (3, 3, fan_in, out))
                file[f"conv{block}_{i}/weight"] = weight.astype(np.float32)
                file[f"conv{block}_{i}/bias"] = np.zeros(out, np.float32)
    with h5py.File(folder / "lpips_lin.h5", "w") as file:
        for i, channels in enumerate(VGG_LAYERS.values()):
            shape = (1, 1, channels[-1], 1)
            file[f"lin{i}"] = rng.uniform(0, 1, shape).astype(np.float32)
    return folder
