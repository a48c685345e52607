"""The bundled network's figures, so that no change makes its pictures worse unnoticed."""

from pathlib import Path

import numpy as np
import pytest

from rf_jax import Renderer, load_scene
from rf_jax.images.metrics import psnr
from rf_jax.rendering.evaluation import evaluate
from rf_jax.scene import find_scene_files
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS

pytestmark = pytest.mark.usefixtures("optimizations")

HELD_OUT = sorted((Path(__file__).parent / "data" / "rooms").glob("*.h5"))
HELD_OUT_PSNR = 30.61
CORNELL_BOX_PSNR = 27.83
TOLERANCE = 0.1
"""Decibels."""


@pytest.fixture(scope="module")
def renderer():
    return Renderer.from_pretrained(BUNDLED_WEIGHTS)


def test_held_out_scenes(renderer):
    rows = evaluate(renderer, HELD_OUT, None).rows
    assert len(rows) == 4
    mean = np.mean([row["psnr"] for row in rows])
    assert mean == pytest.approx(HELD_OUT_PSNR, abs=TOLERANCE)


def test_cornell_box(renderer):
    (path,) = find_scene_files("cornell_box")
    image = renderer.render(load_scene(path), 64)[0, 0]
    decibels = float(psnr(image, load_ground_truth(path, [0])[0]))
    assert decibels == pytest.approx(CORNELL_BOX_PSNR, abs=TOLERANCE)
