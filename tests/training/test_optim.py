"""Schedule, decay and clipping."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from settings import small_config

from rf_jax.training.optim import is_matrix, make_optimizer, make_schedule
from rf_jax.weights.random_weights import random_variables


@pytest.mark.parametrize("warmup", [0, 8])
def test_schedule_is_the_published_one_without_its_restart(warmup):
    config = small_config("", learning_rate=1e-4, warmup_steps=warmup, cosine_steps=92)
    schedule = make_schedule(config)
    for step in (0, 1, 7, 8, 50, 99, 100, 150, 10_000):
        if step < warmup:
            expected = step / warmup
        else:
            turn = min((step - warmup) / 92, 1)
            expected = 0.5 * (1.01 + 0.99 * np.cos(np.pi * turn))
        np.testing.assert_allclose(schedule(step), 1e-4 * expected, rtol=1e-5)


def test_update_is_adamw_with_clipping():
    """Two steps against the formulas (Loshchilov and Hutter 2019, algorithm 2)."""
    config = small_config("", weight_decay=0.01, grad_clip_norm=1.0)
    tx = make_optimizer(config)
    params = {"layer": {"kernel": jnp.float32([[1.0, -2.0]]), "scale": jnp.float32([3.0])}}
    state = tx.init(params)
    m = v = np.zeros(3)
    values, decay = np.array([1.0, -2.0, 3.0]), np.array([0.01, 0.01, 0])
    for t, grad in enumerate([np.array([3.0, 0, 4.0]), np.array([0.1, 0.2, -0.1])], 1):
        grads = {"layer": {"kernel": jnp.float32([grad[:2]]), "scale": jnp.float32(grad[2:])}}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: 1e-3 * u, updates))
        grad = grad / max(1, np.linalg.norm(grad))
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        adam = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        values = values - 1e-3 * (adam + decay * values)
        found = np.concatenate([np.ravel(params["layer"][k]) for k in ("kernel", "scale")])
        np.testing.assert_allclose(found, values, rtol=1e-5)


def test_muon_turns_the_layers_matrices_alike_in_every_direction():
    """Singular values of the first update are near 0.2 sqrt(longer side); the rest has Adam's."""
    config = small_config("", optimizer="muon", weight_decay=0.0, grad_clip_norm=1e9)
    rng = np.random.default_rng(0)
    shapes = {"layers": {"kernel": (3, 8, 24), "scale": (3, 8)}, "decoder": {"kernel": (8, 4)}}
    grads = jax.tree.map(
        lambda shape: jnp.float32(rng.normal(size=shape)),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    params = jax.tree.map(jnp.zeros_like, grads)
    tx = make_optimizer(config)
    updates, _ = tx.update(grads, tx.init(params), params)
    left, _, right = np.linalg.svd(grads["layers"]["kernel"], full_matrices=False)
    turned = np.einsum("lij,lik,ljk->lj", left, -updates["layers"]["kernel"], right)
    np.testing.assert_allclose(turned / (0.2 * np.sqrt(24)), 1, atol=0.35)
    for path in (("layers", "scale"), ("decoder", "kernel")):
        update, grad = (tree[path[0]][path[1]] for tree in (updates, grads))
        # Nesterov's step of Adam: (1 + beta) times the gradient's sign, less the bias correction
        np.testing.assert_allclose(update, -1.47368 * np.sign(grad), rtol=1e-4)


def test_only_matrices_decay_by_default():
    config = small_config("")
    params = random_variables(config.model, seed=0)["params"]
    decayed = jax.tree_util.tree_leaves_with_path(is_matrix(params))
    names = {path[-1].key: decays for path, decays in decayed}
    assert names == {
        "kernel": True, "bias": False, "scale": False, "triangle_token": False,
        "register_tokens": False, "ray_token": False,
    }  # fmt: skip
    tx = make_optimizer(dataclasses.replace(config, decay="all"))
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_allclose(
        updates["view_independent"]["triangle_token"],
        -0.01 * params["view_independent"]["triangle_token"],
        rtol=1e-6,
    )
