"""Small networks memorise scenes, which no broken gradient allows."""

import jax
import pytest
from overfit import TARGETS, overfit
from scenes import write_scenes


@pytest.fixture(scope="module", autouse=True)
def full_optimization(quick_compilation):
    """Many steps pay for it."""
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.parametrize("scenes", [1, 8])
def test_scenes_are_memorised(tmp_path, scenes):
    folder = write_scenes(tmp_path, scenes, side=16)
    history = []
    for _, decibels in overfit(folder, scenes, 800, 16, 8):
        history.append(decibels)
        if decibels > TARGETS[scenes]:
            return
    pytest.fail(f"expected {TARGETS[scenes]} dB, found {history}")
