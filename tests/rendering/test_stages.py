"""The renderer's programs with variables that are split into layers, as GPUs take them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.sharding import device_mesh
from rf_jax.rendering.stages import encode, for_platform, render
from rf_jax.scene.random_scene import random_scene
from rf_jax.weights.random_weights import random_variables


@pytest.mark.parametrize(
    "network",
    [{}, {"view_transformer_use_swin_attn": True}],
    ids=["rope", "windows"],
)
def test_layers_on_their_own_give_the_same_image(network):
    config = dataclasses.replace(VARIANTS["testing"], **network)
    stacked = random_variables(config, seed=0)
    by_layer = for_platform(stacked, "gpu")
    assert for_platform(stacked, "cpu") is stacked
    qkv = by_layer["params"]["view_independent"]["layers"]["attention"]["qkv"]["kernel"]
    assert isinstance(qkv, tuple) and len(qkv) == config.view_independent.depth

    scene, model = random_scene(20), RenderFormer(config)
    tokens = prepare_scene(scene, config)
    mesh = device_mesh(jax.devices()[:1])
    cameras = scene.camera_to_world[None], scene.fov_degrees[None]
    side = max(16, config.resolution_multiple)

    def image(variables):
        encoding = jax.jit(functools.partial(encode, model, mesh=mesh))(variables, tokens)
        static = dict(resolution=side, mesh=mesh, split=False)
        return encoding, jax.jit(functools.partial(render, model, **static))(
            variables, encoding, *cameras
        )

    encoding, found = image(by_layer)
    assert isinstance(encoding.keys, tuple)
    np.testing.assert_allclose(found, image(stacked)[1], rtol=1e-5, atol=1e-5)
