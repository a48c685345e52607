"""Attention of tokens that are split over 8 devices, against the same function on one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.attention import Attention, Sinks, get_attention
from rf_jax.attention.performer import PerformerOptions, performer_attention
from rf_jax.attention.sharding import shard_attention
from rf_jax.attention.sliding_sink import SlidingSinkOptions
from rf_jax.errors import InputError
from rf_jax.models import RenderFormer
from rf_jax.structs import SceneTokens

PERFORMER = PerformerOptions(features=32, hyperbolic=True, center_keys=True, temperature=True)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("rows", "tokens"), (jax.sharding.AxisType.Auto,) * 2)


def gradients(attention, arguments):
    def total(query, key, value):
        out = attention.bind()(query, key, value, *arguments[3:])
        return jnp.square(out).sum(), out

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arguments[:3])


@pytest.mark.parametrize(("rows", "lengths"), [("rows", ()), ("rows", (37, 1)), (None, (37, 1))])
@pytest.mark.parametrize("name", ["dot_product", "flash"])
def test_exact_attention_of_split_tokens(mesh, name, lengths, rows):
    """40 tokens, 10 per device; with lengths, two devices and more have no valid key."""
    attention = get_attention(name)
    rng = np.random.default_rng(0)
    qkv = [jnp.asarray(rng.normal(size=(2, 40, 2, 16)), jnp.float32) for _ in range(3)]
    arguments = (*qkv, jnp.array(lengths, jnp.int32)) if lengths else (*qkv,)
    split = [
        jax.device_put(x, NamedSharding(mesh, P(rows, "tokens") if x.ndim > 1 else P(rows)))
        for x in arguments
    ]
    found = gradients(shard_attention(attention, mesh, rows, "tokens"), split)
    expected = gradients(attention, arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert a.addressable_shards[0].data.shape[1] == 10


@pytest.fixture(scope="module")
def scenes():
    """Two scenes of 30 and 5 triangles, with 2 registers, padded to 40 tokens."""
    rng = np.random.default_rng(0)
    return SceneTokens(
        triangles=rng.normal(size=(2, 38, 3, 3)).astype(np.float32),
        vertex_normals=rng.normal(size=(2, 38, 3, 3)).astype(np.float32),
        texture=rng.uniform(size=(2, 38, 13)).astype(np.float32),
        num_triangles=np.array([30, 5], np.int32),
    )


@pytest.mark.parametrize("name", ["dot_product", "performer"])
def test_the_gradient_of_a_network_with_split_tokens(mesh, config, scenes, name):
    """Of all parameters of the view-independent stage, with remat as training has it."""
    options = (PERFORMER,) if name == "performer" else ()
    attention = get_attention(name, options)
    registers = config.num_register_tokens
    assert scenes.triangles.shape[1] + registers == 40
    alone = RenderFormer(config, view_independent_attention=attention, remat=True)
    camera = jnp.eye(4)[None, None], jnp.full((1, 1), 45.0)
    one = jax.tree.map(lambda x: x[:1], scenes)
    variables = alone.init(jax.random.key(0), one, *camera, config.resolution_multiple)
    parts = dataclasses.replace(
        alone, view_independent_attention=shard_attention(attention, mesh, "rows", "tokens")
    )

    def gradient(model, variables):
        def total(params):
            all_variables = variables | {"params": params}
            encoding = model.apply(all_variables, scenes, method=RenderFormer.encode_scene)
            valid = jnp.arange(40) < scenes.num_triangles[:, None] + registers
            return jnp.square(jnp.where(valid[..., None], encoding.tokens, 0)).mean()

        return jax.jit(jax.value_and_grad(total))(variables["params"])

    everywhere = jax.device_put(variables, NamedSharding(mesh, P()))
    found, expected = gradient(parts, everywhere), gradient(alone, variables)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[1]["view_independent"]))
    assert largest > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    if name == "performer":
        logits = expected[1]["view_independent"]["layers"]["attention"]["performer"]
        assert np.abs(logits["temperature"]).max() > 1e-6


def test_attention_that_depends_on_the_place_of_a_query_is_refused(mesh):
    near = Attention("near", lambda query, key, value, key_lengths: value)
    with pytest.raises(InputError, match="attention near: tokens cannot be split over devices"):
        shard_attention(near, mesh, None, "tokens")


def test_centred_keys_of_split_cross_attention(mesh):
    """The mean of the queries is that of all devices, as without a mesh."""
    rng = np.random.default_rng(0)
    shapes = (2, 24, 2, 16), (2, 40, 2, 16), (2, 40, 2, 16), (32, 16)
    *arrays, projection = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    arguments = *arrays, jnp.array([37, 1], jnp.int32), projection
    attend = functools.partial(performer_attention, options=PERFORMER, cross=True)
    part = functools.partial(attend, axis_name="tokens")
    tokens = P("rows", "tokens")
    specs = tokens, tokens, tokens, P("rows"), P()
    split = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)
    found, expected = jax.jit(split)(*arguments), jax.jit(attend)(*arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sinks_without_lengths_stay_sinks(mesh):
    attention = get_attention("sliding_sink", (SlidingSinkOptions(window=5),))
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 40, 2, 16))
    arguments = query, key, value, None, Sinks(jnp.array([3, 1], jnp.int32), 3)
    sharded = shard_attention(attention, mesh, "rows")
    assert sharded.most_lights == attention.most_lights > 0
    found = jax.jit(sharded.bind())(*arguments)
    np.testing.assert_allclose(found, jax.jit(attention.bind())(*arguments), rtol=1e-5, atol=1e-5)
