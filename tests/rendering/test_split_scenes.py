"""One scene over several devices: the triangles of a large scene, and fewer views than devices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.attention import ATTENTIONS, Attention
from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.rendering import sharding
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.renderer import Renderer
from rf_jax.rendering.stages import encode
from rf_jax.scene.random_scene import random_scene
from rf_jax.trained_on import TrainedOn
from rf_jax.weights.random_weights import random_variables

NETWORKS = {
    "exact": {"reference_emission": 1000.0},
    "nerf": {"pe_type": "nerf"},
    "windows": {"view_transformer_use_swin_attn": True},
    "performer": {"view_independent_attention": "performer"},
}


@pytest.fixture(autouse=True)
def small_scenes_are_split(monkeypatch):
    monkeypatch.setattr(sharding, "TOKENS_PER_DEVICE", 8)
    monkeypatch.setattr(sharding, "TOKEN_MULTIPLE", 16)


def cameras(scene, count):
    matrices = np.repeat(scene.camera_to_world, count, axis=0)
    matrices[:, :3, 3] *= np.linspace(1, 1.3, count, dtype=np.float32)[:, None]
    return scene.replace(camera_to_world=matrices, fov_degrees=np.full(count, 40, np.float32))


def batch(*scenes):
    """Scenes of any sizes with one camera each as one batch, padded and masked."""
    padded = max(len(scene.triangles) for scene in scenes)

    def pad(x):
        return np.pad(x, ((0, padded - len(x)), *[(0, 0)] * (x.ndim - 1)))

    fields = ("triangles", "vertex_normals", "texture")
    stacked = {name: np.stack([pad(getattr(s, name)) for s in scenes]) for name in fields}
    mask = np.arange(padded) < np.array([[len(scene.triangles)] for scene in scenes])
    views = {
        name: np.stack([getattr(s, name) for s in scenes])
        for name in ("camera_to_world", "fov_degrees")
    }
    return scenes[0].replace(**stacked, **views, valid_mask=mask)


@pytest.mark.parametrize(
    ("network", "devices", "views"),
    [("exact", 8, 1), ("exact", 3, 4), ("nerf", 8, 1), ("windows", 8, 2), ("performer", 8, 1)],
)
def test_a_split_scene_gives_the_same_image(network, devices, views):
    """A batch of 90 and of 5 triangles, so that some devices have padding only."""
    config = dataclasses.replace(VARIANTS["testing"], **NETWORKS[network])
    variables = random_variables(config, seed=0)
    scene = batch(*(cameras(random_scene(n), views) for n in (90, 5)))
    alone, several = (
        Renderer(variables, config, trained_on=TrainedOn(16), devices=n) for n in (1, devices)
    )
    encoding = several.encode_scene(scene)
    length = encoding.tokens.shape[1]
    assert length % (16 * devices) == 0
    for leaf in (encoding.tokens, *([] if network == "nerf" else [encoding.keys])):
        assert len(leaf.sharding.device_set) == devices
        assert length // devices in leaf.addressable_shards[0].data.shape
    side = max(16, config.resolution_multiple)
    expected = alone.render(scene, side)
    assert len(alone.encode_scene(scene).tokens.sharding.device_set) == 1
    image = several.render(scene, side)
    assert image.shape == (2, views, side, side, 3) and expected.std() > 1e-3
    image, expected = (np.log10(1 + np.maximum(x, 0)) for x in (image, expected))
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)


def test_scenes_that_are_not_split(variables, config, monkeypatch):
    """Small ones, those of a single device, and those of an attention that cannot be split."""
    tokens = prepare_scene(random_scene(70), config)
    length = tokens.triangles.shape[1] + config.num_register_tokens
    assert length == 128
    model = RenderFormer(config)
    assert sharding.is_worth_splitting(tokens, model, 8)
    assert not sharding.is_worth_splitting(tokens, model, 1)
    near = Attention("near", lambda query, key, value, key_lengths: value)
    monkeypatch.setitem(ATTENTIONS, "near", near)
    other = dataclasses.replace(config, view_independent_attention="near")
    assert not sharding.is_worth_splitting(tokens, RenderFormer(other), 8)
    monkeypatch.setattr(sharding, "TOKENS_PER_DEVICE", 17)
    assert not sharding.is_worth_splitting(tokens, model, 8)
    assert sharding.is_worth_splitting(tokens, model, 7)


def test_memory_per_device_falls_with_their_number(variables, config, optimizations):
    """What XLA plans for a device besides the weights, with 8,192 tokens; nothing is run."""
    model = RenderFormer(config)

    def planned(count):
        mesh = sharding.device_mesh(jax.local_devices()[:count])
        tokens = prepare_scene(random_scene(8190), config)
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P())),
            (variables, tokens),
        )
        program = functools.partial(encode, model, mesh=mesh)
        sizes = jax.jit(program).lower(*arguments).compile().memory_analysis()
        return sizes.temp_size_in_bytes, sizes.output_size_in_bytes

    (temporaries, result), (temporaries_of_8, result_of_8) = planned(1), planned(8)
    triangles = 8190 * 9 * 4  # every device has them all
    assert result_of_8 - triangles < 0.13 * (result - triangles)
    assert temporaries_of_8 < 0.6 * temporaries  # the keys and values of one layer are whole


def test_an_encoding_that_another_renderer_split(variables, config):
    several, alone = (Renderer(variables, config, devices=n) for n in (4, 1))
    scene = random_scene(90)
    encoding = several.encode_scene(scene)
    views = scene.camera_to_world, scene.fov_degrees, 16
    (image,), (expected,) = (
        [*renderer.render_views(encoding, *views)] for renderer in (alone, several)
    )
    np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
