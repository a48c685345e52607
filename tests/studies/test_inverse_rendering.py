"""The study of gradients: both ways go towards the truth, and its table says when they arrive."""

import argparse

import numpy as np
import pytest

from rf_jax.images.files import load_exr
from rf_jax.scene import bundled_scene
from rf_jax.studies import inverse_rendering as study


@pytest.fixture
def truth():
    return load_exr(bundled_scene(study.SCENE).parent / "scene_truth_view_0.exr")


def errors_of(fit, target):
    args = argparse.Namespace(steps=3, learning_rate=0.05, grey=0.4, spp=4)
    recorded = []
    fit(target, args, lambda colours: recorded.append(np.array(colours)))
    assert len(recorded) == args.steps + 1 and (np.float32(recorded[0]) == np.float32(0.4)).all()
    red, green = ([colours[wall] for colours in recorded] for wall in (0, 1))
    assert red[-1][0] > red[0][0] and red[-1][1] < red[0][1]  # the left wall becomes red
    assert green[-1][0] < green[0][0] and green[-1][2] < green[0][2]


@pytest.mark.slow
def test_the_network_goes_towards_the_truth(truth):
    errors_of(study.fit_network, truth)


@pytest.mark.slow
def test_mitsuba_goes_towards_the_truth(truth):
    pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")
    from rf_jax.datagen.probe import find_llvm, renders

    find_llvm()
    if not renders("llvm_ad_rgb"):
        pytest.skip("llvm_ad_rgb needs LLVM 19")
    errors_of(study.fit_mitsuba, truth)


def test_a_bound_is_met_from_where_it_is_met_until_the_end():
    errors = (0.5, 0.09, 0.2, 0.07, 0.06, 0.03)
    steps = [study.Step(10 + 2 * i, error) for i, error in enumerate(errors)]
    row = study._row("a fit", steps)
    # The first step took 2 of 10 seconds
    assert " ".join(row.split()) == "a fit 8.0 s 2000 ms 3 / 8.0 s 5 / 12.0 s never 0.030"
