"""SwiGLU with its gate in one kernel: the kernel interpreted, and the derivative around it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rf_jax.errors import InputError
from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.models.layers import FeedForward
from rf_jax.models.swiglu import _hopper_kernels, fused_swiglu
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.scene.random_scene import random_scene
from rf_jax.weights.random_weights import random_variables


def arrays(dtype, rows, width, hidden, *batch):
    """x, w1, w3, w2 and the gradient of the result; results are of order 1."""
    rng = np.random.default_rng(0)
    x, d_out = rng.normal(size=(2, *batch, rows, width))
    w1, w3 = rng.normal(0, width**-0.5, (2, width, hidden))
    w2 = rng.normal(0, hidden**-0.5, (hidden, width))
    return [jnp.asarray(a, dtype) for a in (x, w1, w3, w2, d_out)]


def relative_error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "shape", "detect_races"),
    [
        (jnp.bfloat16, (128, 320, 384), True),
        (jnp.float16, (256, 128, 256), True),
        # Both blocks compute the rows that they have in common, and write the same.
        (jnp.float16, (200, 128, 128), False),
    ],
    ids=["rings filled twice, three tiles", "two blocks, two tiles", "blocks with common rows"],
)
def test_kernels(interpret_kernels, dtype, shape, detect_races):
    from rf_jax.models import swiglu_mosaic

    run = functools.partial(interpret_kernels, detect_races=detect_races)
    x, w1, w3, w2, d_out = arrays(dtype, *shape)
    wide = [np.asarray(a, np.float64) for a in (x, w1, w3, w2, d_out)]
    first, gate = wide[0] @ wide[1], wide[0] @ wide[2]
    sigmoid = 1 / (1 + np.exp(-first))
    d_hidden = wide[4] @ wide[3].T
    d_first = d_hidden * gate * sigmoid * (1 + first * (1 - sigmoid))
    d_gate = d_hidden * first * sigmoid
    limit = 2e-3 if dtype == jnp.float16 else 1e-2

    (alone,) = run(swiglu_mosaic.forward, x, w1, w3, False)
    found = run(swiglu_mosaic.forward, x, w1, w3, True)
    np.testing.assert_array_equal(alone, found[0])
    for a, b in zip(found, (first * sigmoid * gate, first, gate), strict=True):
        assert a.dtype == dtype and relative_error(a, b) < limit
    products = [jnp.asarray(a, dtype) for a in (first, gate)]
    d_both = run(swiglu_mosaic.backward, d_out, w2, *products)
    assert d_both.dtype == dtype
    assert relative_error(d_both, np.concatenate([d_first, d_gate], -1)) < limit


@pytest.mark.parametrize(
    ("dtype", "limit"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)], ids=["fp32", "bf16"]
)
def test_results_and_gradients_are_those_of_the_layer(dtype, limit):
    x, w1, w3, w2, d_out = arrays(dtype, 6, 16, 24, 2)
    config = dataclasses.replace(VARIANTS["testing"].view_independent, hidden_dim=24)
    layer = FeedForward(config, dtype)

    def of_layer(*weights):
        kernels = {name: {"kernel": w} for name, w in zip(("w1", "w3", "w2"), weights, strict=True)}
        return layer.apply({"params": kernels}, x)

    expected, expected_gradients = jax.vjp(of_layer, w1, w3, w2)
    found, gradients = jax.vjp(lambda *weights: fused_swiglu(x, *weights), w1, w3, w2)
    assert relative_error(found, expected) < limit
    for a, b in zip(gradients(d_out), expected_gradients(d_out), strict=True):
        assert a.dtype == dtype and relative_error(a, b) < limit


def test_tokens_that_are_split_over_devices_give_the_same():
    *inputs, d_out = arrays(jnp.float32, 8, 16, 24, 2)
    expected, pull = jax.vjp(fused_swiglu, *inputs)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("rows", "tokens"))
    spec = jax.P("rows", "tokens")
    fused = functools.partial(fused_swiglu, split=(mesh, spec))
    x = jax.device_put(inputs[0], jax.NamedSharding(mesh, spec))
    found, split_pull = jax.vjp(jax.jit(fused), x, *inputs[1:])
    assert found.sharding.is_equivalent_to(x.sharding, x.ndim)
    for a, b in zip([found, *split_pull(d_out)], [expected, *pull(d_out)], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    *inputs, d_out = (np.asarray(a, np.float64) for a in arrays(np.float32, 3, 8, 12, 2))
    with jax.enable_x64():
        check_grads(lambda *a: jnp.sum(fused_swiglu(*a) * d_out), inputs, order=1, modes=["rev"])


def test_a_network_renders_the_same_and_refuses_what_the_kernel_cannot():
    config = VARIANTS["testing"]
    fused = dataclasses.replace(config, feed_forward="fused")
    assert type(config).from_dict(fused.to_dict()) == fused
    assert "feed_forward" not in config.to_dict()
    scene = random_scene(9)
    arguments = prepare_scene(scene, config), scene.camera_to_world[None], scene.fov_degrees[None]
    variables = random_variables(config, seed=0)
    side = config.resolution_multiple * 2
    expected, found = (
        jax.jit(lambda v, c=c: RenderFormer(c).apply(v, *arguments, side))(variables)
        for c in (config, fused)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for change in ({"bias": True}, {"activation": "gelu"}):
        with pytest.raises(InputError, match=r'feed_forward: "fused" needs activation "swiglu"'):
            dataclasses.replace(fused, **change)


def lowered_for_cuda(f, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    return jax.jit(f).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.skipif(_hopper_kernels() is None, reason="this jax has no Mosaic GPU")
def test_the_kernel_is_there_for_cuda_and_only_for_its_sizes():
    kernels = (768, 3072), (768, 3072), (3072, 768)

    def gradient(*inputs):
        return jax.grad(lambda *a: fused_swiglu(*a).astype(jnp.float32).sum(), (0, 1, 2, 3))(
            *inputs
        )

    assert lowered_for_cuda(fused_swiglu, (2, 1024, 768), *kernels).count("@mosaic_gpu") == 1
    assert lowered_for_cuda(gradient, (2, 1024, 768), *kernels).count("@mosaic_gpu") == 2
    assert "@mosaic_gpu" in lowered_for_cuda(fused_swiglu, (2, 100, 768), *kernels)
    for batch in (1, 3):  # fewer rows than a tile has, and not a multiple of 8
        assert "@mosaic_gpu" not in lowered_for_cuda(fused_swiglu, (batch, 100, 768), *kernels)
