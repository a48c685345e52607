"""Fresh weights are drawn as published."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util
from settings import MODEL

from rf_jax.models import VARIANTS, init_variables

BASE = VARIANTS["v1_base"]


def test_distributions_of_fresh_weights():
    config = dataclasses.replace(
        BASE, num_layers=2, view_transformer_n_layers=4, dim_feedforward=512
    )
    params = traverse_util.flatten_dict(
        jax.jit(init_variables, static_argnums=0)(config, jax.random.key(0))["params"], sep="/"
    )
    for path, leaf in params.items():
        name, decoder = path.split("/")[-1], "/decoder/" in path
        leaf = np.asarray(leaf)
        if name == "scale":
            np.testing.assert_array_equal(leaf, 1)
        elif name.endswith(("token", "tokens")):
            assert abs(leaf.std() - 1) < 0.1, path
        elif "decoder/head3" in path or (name == "bias" and not decoder):
            np.testing.assert_array_equal(leaf, 0)
        elif not decoder:
            bound = (6 / (leaf.shape[-2] + leaf.shape[-1])) ** 0.5
            assert 0.99 * bound < np.abs(leaf).max() <= 1.0001 * bound, path
            assert abs(leaf.std() - bound / 3**0.5) < 0.02 * bound, path


def test_the_seed_decides_and_a_linear_decoder_begins_with_an_even_grey():
    init = jax.jit(init_variables, static_argnums=0)
    first, again, other = (init(MODEL, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (first, other)), strict=True))
    decoder = first["params"]["view_dependent"]["decoder"]
    np.testing.assert_array_equal(decoder["kernel"], 0)
    np.testing.assert_array_equal(decoder["bias"], np.float32(0.1))
