"""Small data, and programs that compile quickly."""

import jax
import pytest
from scenes import write_scenes
from settings import ROOT


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs are compiled quickly, and kept for other tests and processes."""
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


@pytest.fixture(autouse=True)
def published_configs(monkeypatch):
    """The configurations import each other."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Ten scenes of 16x16 pixels."""
    return write_scenes(tmp_path_factory.mktemp("data"), 10)
