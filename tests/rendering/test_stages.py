"""The renderer's programs with variables as GPUs take them: in layers, and in smaller types."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.sharding import device_mesh
from rf_jax.rendering.stages import cast_variables, encode, for_platform, render
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
    decoder, whole = (v["params"]["view_dependent"]["decoder"] for v in (by_layer, stacked))
    filters = np.moveaxis(whole["head1"]["kernel"], -1, 0)
    np.testing.assert_array_equal(decoder["head1"]["kernel"], filters)
    assert decoder["resample0"]["kernel"].shape == whole["resample0"]["kernel"].shape

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


def test_kernels_and_the_biases_of_the_decoder_are_cast():
    config = dataclasses.replace(VARIANTS["testing"], norm_type="layer_norm", bias=True)
    cast = cast_variables(random_variables(config, seed=0), np.float16)["params"]
    first, decoder = cast["view_independent"], cast["view_dependent"]["decoder"]
    assert first["layers"]["attention"]["qkv"]["kernel"].dtype == np.float16
    assert decoder["head1"]["kernel"].dtype == decoder["head1"]["bias"].dtype == np.float16
    for layer in (first["texture_encoder"], first["layers"]["attention"]["qkv"]):
        assert layer["bias"].dtype == np.float32
    assert first["layers"]["ffn_norm"]["bias"].dtype == np.float32
