"""Weights of the attention, recovered from what the attention functions answer."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.latent import LatentOptions
from rf_jax.attention.performer import PerformerOptions
from rf_jax.attention.sliding_sink import SlidingSinkOptions
from rf_jax.images.files import load_png
from rf_jax.scene import load_scene
from rf_jax.studies import attention_maps
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.random_weights import random_variables

OPTIONS = {
    "sliding_sink": SlidingSinkOptions(window=5, block=3, lights=2),
    "latent": LatentOptions(latents=4),
}


@pytest.fixture(scope="module")
def scene():
    return load_scene("cornell_box")


@pytest.fixture(scope="module")
def performer_config(config):
    return dataclasses.replace(
        config,
        view_independent_attention="performer",
        attention_options=(PerformerOptions(temperature=True),),
    )


def test_weights_are_the_softmax_and_none_goes_to_padding():
    rng = np.random.default_rng(0)
    query, key = (jnp.float32(rng.normal(size=(2, n, 3, 4))) for n in (5, 11))
    lengths = jnp.array([11, 6])
    found = attention_maps.weights(dot_product_attention, query, key, lengths)
    scores = np.einsum("bthd,bshd->bhts", query, key) / 2
    scores[1, :, :, 6:] = -np.inf
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["exact", "performer", "sliding_sink", "latent"])
def test_maps_of_a_network(config, performer_config, scene, name):
    if name == "performer":
        config = performer_config
    if name in OPTIONS:
        attention = {"view_independent_attention": name, "attention_options": (OPTIONS[name],)}
        config = dataclasses.replace(config, **attention)
    variables = random_variables(config, seed=0)
    maps = attention_maps.attention_maps(variables, config, scene)
    tokens = len(scene.triangles) + config.num_register_tokens
    assert maps.shape == (config.num_layers, config.num_heads, tokens, tokens)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-4)
    assert maps.min() >= 0
    if name == "sliding_sink":  # a window of its own would not reach the light from everywhere
        lights = attention_maps.light_tokens(scene, config)
        assert lights.sum() == 1 and (maps[..., lights].min(-1) > 1e-6).all()
    layers = variables["params"]["view_independent"]["layers"]
    layers["attention"]["qkv"]["kernel"] *= 0
    blind = attention_maps.attention_maps(variables, config, scene)
    np.testing.assert_allclose(blind, 1 / tokens, rtol=1e-4)
    np.testing.assert_allclose(attention_maps.tokens_read(blind), tokens, rtol=1e-3)
    assert (attention_maps.tokens_read(maps) < tokens - 0.05).all()


def test_the_command_compares_networks(
    config, performer_config, scene, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("matplotlib")
    for name, chosen in (("exact", config), ("performer", performer_config)):
        variables = jax.tree.map(np.asarray, random_variables(chosen, seed=0))
        save_checkpoint(tmp_path / name, variables, chosen.to_dict())
    output = tmp_path / "attention_maps.png"
    folders = [str(tmp_path / name) for name in ("exact", "performer")]
    monkeypatch.setattr(sys, "argv", ["attention_maps", *folders, "--output_dir", str(tmp_path)])
    attention_maps.main()
    out = capsys.readouterr().out
    tokens = len(scene.triangles) + config.num_register_tokens
    assert f"exact: {tokens} tokens" in out and f"performer: {tokens} tokens" in out
    assert load_png(output).std() > 1
    assert attention_maps.light_tokens(scene, config).sum() == 1
