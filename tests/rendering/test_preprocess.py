"""From scenes to the network's input."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rf_jax.attention import get_attention
from rf_jax.errors import InputError
from rf_jax.models.view_independent import token_sinks
from rf_jax.rendering.preprocess import bucket_length, prepare_scene
from rf_jax.scene.random_scene import random_scene
from rf_jax.structs import EMISSION, Scene, expand_texture


@given(st.integers(1, 2_000_000))
def test_buckets_hold_the_sequence_and_waste_little(length):
    bucket = bucket_length(length)
    assert bucket >= length and bucket_length(bucket) == bucket
    assert bucket - length < min(max(64, length / 16), 4096)


@given(st.integers(1, 2_000_000))
def test_buckets_grow_with_the_sequence(length):
    assert bucket_length(length) <= bucket_length(length + 1)


def batch_of(*scenes: Scene) -> Scene:
    """Scenes of equal size as one batch, no mask."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *scenes)


def test_tokens_of_a_scene(config):
    scene = random_scene(10)
    tokens = prepare_scene(scene, config)
    padded = bucket_length(10 + config.num_register_tokens) - config.num_register_tokens
    assert tokens.triangles.shape == (1, padded, 3, 3)
    assert tokens.num_triangles.tolist() == [10]
    assert np.array_equal(tokens.triangles[0, :10], scene.triangles)
    assert np.array_equal(tokens.vertex_normals[0, :10], scene.vertex_normals)
    emission = scene.texture[:, EMISSION]
    expected = np.concatenate([scene.texture[:, :10], np.log10(1 + emission)], axis=1)
    np.testing.assert_allclose(tokens.texture[0, :10], expected, rtol=1e-6)
    assert not tokens.triangles[0, 10:].any() and not tokens.texture[0, 10:].any()


def test_holes_in_the_mask_are_closed_in_order(config):
    scene = random_scene(9)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0], bool)
    holes = prepare_scene(scene.replace(valid_mask=mask), config)
    kept = scene.replace(
        triangles=scene.triangles[mask],
        vertex_normals=scene.vertex_normals[mask],
        texture=scene.texture[mask],
    )
    for actual, expected in zip(
        vars(holes).values(), vars(prepare_scene(kept, config)).values(), strict=True
    ):
        assert np.array_equal(actual, expected)


def test_garbage_in_padding_is_allowed_and_dropped(config):
    scene = random_scene(4)
    triangles, texture = scene.triangles.copy(), expand_texture(scene.texture, 8)
    triangles[3] = np.nan
    texture[3] = np.random.default_rng(0).normal(size=texture.shape[1:]) - 5
    mask = np.array([True, True, True, False])
    tokens = prepare_scene(
        scene.replace(triangles=triangles, texture=texture, valid_mask=mask), config
    )
    expected = prepare_scene(scene.replace(valid_mask=mask), config)
    assert tokens.num_triangles.tolist() == [3]
    assert np.array_equal(tokens.triangles, expected.triangles)
    # What a masked patch holds does not keep the others from being constant.
    assert np.array_equal(tokens.texture, expected.texture)


def test_scenes_of_a_batch_may_have_holes_of_their_own(config):
    scenes = [random_scene(7), random_scene(7)]
    masks = np.random.default_rng(1).random((2, 7)) < 0.6
    batch = prepare_scene(batch_of(*scenes).replace(valid_mask=masks), config)
    assert batch.num_triangles.tolist() == masks.sum(1).tolist()
    for i, scene in enumerate(scenes):
        alone = prepare_scene(scene.replace(valid_mask=masks[i]), config)
        assert np.array_equal(batch.triangles[i], alone.triangles[0])
        assert np.array_equal(batch.texture[i], alone.texture[0])


def test_a_batch_equals_its_scenes(config):
    scenes = [random_scene(7), random_scene(7)]
    scenes[1] = scenes[1].replace(triangles=scenes[1].triangles[::-1].copy())
    batch = prepare_scene(batch_of(*scenes), config)
    for i, scene in enumerate(scenes):
        alone = prepare_scene(scene, config)
        assert np.array_equal(batch.triangles[i], alone.triangles[0])
        assert np.array_equal(batch.texture[i], alone.texture[0])


def test_inputs_are_never_modified(config):
    scene = random_scene(6)
    for array in jax.tree.leaves(scene):
        array.setflags(write=False)
    before = scene.texture.copy()
    prepare_scene(scene, config)
    assert np.array_equal(scene.texture, before)


def test_constant_patches_become_their_value(config):
    scene = random_scene(5)
    patches = scene.replace(texture=expand_texture(scene.texture, 32))
    tokens = prepare_scene(patches, config)
    assert tokens.texture.shape[2:] == (13,)
    assert np.array_equal(tokens.texture, prepare_scene(scene, config).texture)


def test_textured_patches_stay_and_must_fit(config):
    scene = random_scene(5)
    patches = expand_texture(scene.texture, config.texture_encode_patch_size)
    patches[0, 0, 0, 1] += 0.25
    assert prepare_scene(scene.replace(texture=patches), config).texture.shape[2:] == (13, 2, 2)
    large = expand_texture(scene.texture, 8)
    large[0, 0, 0, 1] += 0.25
    with pytest.raises(InputError, match=r"texture: expected patches of 2x2 .* found 8x8"):
        prepare_scene(scene.replace(texture=large), config)
    single = dataclasses.replace(config, texture_encode_patch_size=1)
    assert prepare_scene(scene.replace(texture=large), single).texture.shape[2:] == (13,)


def test_ldr_networks_take_emission_as_it_is(config):
    scene = random_scene(3)
    tokens = prepare_scene(scene, dataclasses.replace(config, use_ldr=True))
    assert np.array_equal(tokens.texture[0, :3], scene.texture)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("triangles", np.zeros((4, 3), "f4"), "triangles: expected shape"),
        ("texture", np.zeros((4, 12), "f4"), "texture: expected shape"),
        ("fov_degrees", np.array([200.0], "f4"), "fov_degrees: expected degrees in"),
        ("valid_mask", np.zeros(4, bool), "valid_mask: expected a valid triangle"),
    ],
)
def test_bad_scenes_are_refused(config, field, value, message):
    with pytest.raises(InputError, match=message):
        prepare_scene(random_scene(4).replace(**{field: value}), config)


SINKS = get_attention("sliding_sink").options


def sorted_config(config, lights):
    options = (dataclasses.replace(SINKS, lights=lights),)
    return dataclasses.replace(
        config, view_independent_attention="sliding_sink", attention_options=options
    )


def with_lights(scene, lights):
    """The scene with emission 1000 * power at the triangles of `lights`, {triangle: power}."""
    texture = scene.texture.copy()
    texture[:, EMISSION] = 0
    for triangle, power in lights.items():
        texture[triangle, EMISSION] = 1000 * power
    triangles = scene.triangles[:, :1] + np.eye(3, dtype="f4") * 0.01  # all of one area
    return scene.replace(triangles=triangles.astype(np.float32), texture=texture)


def order_of(tokens, scene):
    """Which triangle of the scene each valid token is."""
    count = int(tokens.num_triangles[0])
    same = np.all(tokens.triangles[0, :count, None] == scene.triangles, axis=(2, 3))
    assert (same.sum(1) == 1).all()
    return same.argmax(1).tolist()


def test_lights_are_first_and_the_rest_follows_the_curve(config):
    scene = with_lights(random_scene(40), {7: 1, 30: 2, 31: 0.5})
    order = order_of(prepare_scene(scene, sorted_config(config, 8)), scene)
    assert set(order[:3]) == {7, 30, 31}
    curve = order_of(prepare_scene(scene, sorted_config(config, 0)), scene)
    assert curve != sorted(curve)
    assert order == [i for i in curve if i in (7, 30, 31)] + [
        i for i in curve if i not in (7, 30, 31)
    ]


def test_of_many_lights_the_brightest_are_first(config):
    scene = with_lights(random_scene(40), {i: 1 + (7 * i) % 11 for i in range(10, 20)})
    chosen = sorted_config(config, 3)
    order = order_of(prepare_scene(scene, chosen), scene)
    assert {1 + (7 * i) % 11 for i in order[:3]} == {11, 10, 8}
    sinks = token_sinks(prepare_scene(scene, chosen).texture, 4, 3)
    assert sinks.lengths.tolist() == [7] and sinks.most == 7


def test_the_order_of_the_file_does_not_matter(config):
    scene = with_lights(random_scene(40), {7: 1, 30: 1})
    shuffled = np.random.default_rng(0).permutation(40)
    arrays = ("triangles", "vertex_normals", "texture")
    other = scene.replace(**{name: getattr(scene, name)[shuffled] for name in arrays})
    tokens, others = (prepare_scene(s, sorted_config(config, 8)) for s in (scene, other))
    jax.tree.map(np.testing.assert_array_equal, tokens, others)


def test_only_leading_lights_are_sinks():
    texture = np.zeros((3, 6, 13, 2, 2), np.float32)
    texture[0, [0, 1, 3], 11, 1] = 1  # the second patch texel is enough; a gap ends the sinks
    texture[1, 1:, EMISSION] = 1
    texture[2, :, EMISSION] = 1
    sinks = token_sinks(texture, num_register_tokens=2, most_lights=4)
    assert sinks.lengths.tolist() == [4, 2, 6] and sinks.most == 6
    none = token_sinks(texture, num_register_tokens=2, most_lights=0)
    assert none.lengths.tolist() == [2, 2, 2] and none.most == 2
