"""Training that starts from trained weights."""

import dataclasses
import functools
import logging

import jax
import numpy as np
import pytest
from settings import MODEL, small_config, train

from rf_jax.errors import InputError
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.random_weights import random_variables
from rf_jax.weights.warm_start import warm_start, warm_start_leniently


@pytest.fixture(scope="module")
def variables():
    return random_variables(MODEL, seed=0)


@pytest.fixture(scope="module")
def checkpoint(variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "weights"
    save_checkpoint(folder, variables, MODEL.to_dict())
    return str(folder)


def test_all_weights_are_taken(checkpoint, variables, data, tmp_path):
    started = warm_start(checkpoint, MODEL)
    jax.tree.map(np.testing.assert_array_equal, started, variables)
    # The warm-up begins with a learning rate of 0.
    state = train(small_config(data, init_from=checkpoint, total_steps=1), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])


def test_another_attention_draws_its_projections(checkpoint, variables):
    started = warm_start(
        checkpoint, dataclasses.replace(MODEL, view_independent_attention="performer")
    )
    jax.tree.map(np.testing.assert_array_equal, started["params"], variables["params"])
    layers = started["constants"]["view_independent"]["layers"]
    assert len(jax.tree.leaves(layers)) == 1


def test_another_width_is_refused_unless_leniency_is_asked_for(checkpoint, caplog):
    wider = dataclasses.replace(MODEL, dim_feedforward=64)
    with pytest.raises(InputError, match=r"3 misshaped: .*ffn/w1/kernel.*init_lenient"):
        warm_start(checkpoint, wider)
    fresh = functools.partial(random_variables, wider, seed=1)
    with caplog.at_level(logging.WARNING):
        started = warm_start_leniently(checkpoint, wider, fresh)
    assert "left out" in caplog.text and "ffn/w2/kernel" in caplog.text
    first = started["params"]["view_independent"]
    assert first["layers"]["ffn"]["w1"]["kernel"].shape == (1, 36, 64)
