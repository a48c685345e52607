"""A small network memorises scenes, which a broken gradient would not allow."""

import pytest
from overfit import overfit
from scenes import write_scenes


@pytest.mark.slow
@pytest.mark.usefixtures("optimizations")  # the steps take longer than their compilation
def test_eight_scenes_are_memorised(tmp_path):
    folder = write_scenes(tmp_path, 8, side=16)
    history = []
    for _, decibels in overfit(folder, 8, 800, 16, 8):
        history.append(decibels)
        if decibels > 30:
            return
    pytest.fail(f"expected 30 dB, found {history}")
