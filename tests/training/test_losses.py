"""The loss, its gradients and LPIPS."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import cast, small_config

from rf_jax.errors import InputError
from rf_jax.images.lpips import Perceptual
from rf_jax.models import VARIANTS
from rf_jax.training.data import SceneLoader
from rf_jax.training.losses import training_loss
from rf_jax.training.scene_files import find_training_files
from rf_jax.training.sharding import make_mesh
from rf_jax.training.steps import make_loss_fn, make_model
from rf_jax.weights.random_weights import random_variables

ONE_DEVICE = make_mesh(1, 1, jax.devices()[:1])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.uniform(0, 2, (1, 2, 16, 16, 3)), jnp.float32) for _ in range(2)]


def one_batch(config):
    files = tuple(find_training_files(config, "train"))
    sample, _ = SceneLoader(files, config, training=True).load(0)
    return jax.tree.map(lambda x: jnp.asarray(x)[None], sample)


def test_loss_is_the_published_formula(images):
    prediction, radiance = images

    def distance(factor, a, b):
        return factor * jnp.abs(a - b).max((1, 2, 3))

    loss, terms = training_loss(prediction, radiance, 0.05, distance, 1.0)
    p, t = np.float64(prediction), np.log10(1 + np.float64(radiance))
    shown = [np.clip(x / np.log10(2), 0, 1).reshape(2, -1) for x in (p, t)]
    l1, lpips = np.abs(p - t).mean(), np.abs(shown[0] - shown[1]).max(1).mean()
    np.testing.assert_allclose([terms["l1"], terms["lpips"]], [l1, lpips], rtol=1e-5)
    np.testing.assert_allclose(loss, l1 + 0.05 * lpips, rtol=1e-5)


def test_lpips_is_zero_for_equal_images_and_symmetric(images, lpips_weights):
    perceptual = Perceptual(str(lpips_weights))
    a, b = (jnp.clip(x[0] / 2, 0, 1) for x in images)
    distance = jax.jit(perceptual.distance)
    np.testing.assert_array_equal(distance(perceptual.params, a, a), 0)
    ab, ba = distance(perceptual.params, a, b), distance(perceptual.params, b, a)
    assert (ab > 0).all()
    np.testing.assert_allclose(ab, ba, rtol=1e-5)


def test_lpips_alone_reaches_the_first_layer(data, lpips_weights):
    """The gradient that a round trip through NumPy once cut."""
    config = small_config(data, lpips_weight=0.05, model=VARIANTS["testing"])
    perceptual = Perceptual(str(lpips_weights))

    def lpips_term(*arguments):
        loss_fn = make_loss_fn(config, make_model(config, ONE_DEVICE), perceptual.distance)
        return loss_fn(*arguments)[1]["lpips"]

    variables = random_variables(config.model, seed=0)
    grads = jax.jit(jax.grad(lpips_term))(
        variables["params"], variables["constants"], one_batch(config), perceptual.params
    )
    first = grads["view_independent"]
    for name in ("triangle_token", "texture_encoder", "layers"):
        for leaf in jax.tree.leaves(first[name]):
            leaf = leaf[0] if name == "layers" else leaf
            assert np.abs(leaf).max() > 0 and np.isfinite(leaf).all(), name


def test_gradient_of_the_whole_loss_agrees_with_finite_differences(data, lpips_weights):
    """In float64, along random directions in each part of the network."""
    model = dataclasses.replace(VARIANTS["testing"], num_layers=1, texture_encode_patch_size=1)
    config = small_config(data, lpips_weight=0.05, model=model)
    with jax.enable_x64(True):
        perceptual = Perceptual(str(lpips_weights), "float64")
        weights = cast(perceptual.params, jnp.float64)
        variables = cast(random_variables(model, seed=0), jnp.float64)
        batch = cast(one_batch(config), jnp.float64)
        loss_fn = make_loss_fn(
            config, make_model(config, ONE_DEVICE, jnp.float64), perceptual.distance
        )

        others = variables["constants"], batch, weights
        loss = jax.jit(lambda *arguments: loss_fn(*arguments)[0])
        params = variables["params"]
        grads = jax.jit(jax.grad(loss))(params, *others)
        rng = np.random.default_rng(0)
        for part in ("view_independent", "view_dependent"):
            direction = jax.tree.map(lambda x: np.zeros(x.shape), params)
            direction[part] = jax.tree.map(lambda x: rng.normal(size=x.shape), params[part])
            slope = sum(
                (g * d).sum()
                for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
            )
            step = 1e-7
            ends = [
                loss(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction), *others)
                for h in (step, -step)
            ]
            np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-5)


def test_missing_lpips_weights_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"lacks vgg16_weights.h5.*config.lpips_weight=0"):
        Perceptual(str(tmp_path))
    (tmp_path / "vgg16_weights.h5").write_bytes(b"no")
    (tmp_path / "lpips_lin.h5").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged"):
        Perceptual(str(tmp_path))

    def offline(*_):
        raise OSError("offline")

    monkeypatch.setattr("rf_jax.images.lpips.hf_hub_download", offline)
    with pytest.raises(InputError, match=r"download vgg16_weights.h5"):
        Perceptual(None)
