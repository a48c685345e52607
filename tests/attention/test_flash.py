"""Flash attention beyond the common tests: log-sum-exp, devices, lowering for GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import flash, flash_triton
from rf_jax.errors import InputError


def heads(num_queries, num_keys, head_dim=64, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(2, n, 2, head_dim) for n in (num_queries, num_keys, num_keys)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def log_sum_exp(query, key, lengths):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest")
    scores *= query.shape[-1] ** -0.5
    valid = jnp.arange(key.shape[1]) < lengths[:, None]
    return jax.nn.logsumexp(jnp.where(valid[:, None, None], scores, -jnp.inf), axis=-1)


def test_log_sum_exp_and_its_gradient():
    query, key, value = heads(20, 50)
    lengths = jnp.array([50, 13])
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 20)), jnp.float32)

    def ours(query, key):
        return jnp.sum(
            weights * flash.flash_attention_with_log_sum_exp(query, key, value, lengths)[1]
        )

    def exact(query, key):
        return jnp.sum(weights * log_sum_exp(query, key, lengths))

    np.testing.assert_allclose(ours(query, key), exact(query, key), rtol=1e-5)
    for a, e in zip(
        jax.grad(ours, (0, 1))(query, key), jax.grad(exact, (0, 1))(query, key), strict=True
    ):
        np.testing.assert_allclose(a, e, atol=1e-5)


@pytest.mark.parametrize("head_dim", [8, 48, 64, 96, 128])
def test_head_dims_are_padded_inside(head_dim):
    query, key, value = heads(10, 10, head_dim)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest") * head_dim**-0.5
    expected = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value, precision="highest")
    np.testing.assert_allclose(flash.flash_attention(query, key, value), expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "head_dim"), [(jnp.float32, 256), (jnp.int32, 64)])
def test_what_no_kernel_takes_is_refused_and_names_what_does(dtype, head_dim):
    arrays = [x.astype(dtype) for x in heads(4, 4, head_dim)]
    with pytest.raises(InputError, match=f"found {jnp.dtype(dtype).name} heads of {head_dim}; dot"):
        flash.flash_attention(*arrays)


def test_a_compiler_that_jax_no_longer_has_is_named(monkeypatch):
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: None)
    flash._kernels.cache_clear()
    with pytest.raises(InputError, match="no longer has the compiler"):
        flash.flash_attention(*heads(4, 4))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.usefixtures("hopper")
def test_portable_kernels_lower_for_cuda(dtype):
    query, key, value = (jax.ShapeDtypeStruct((2, n, 3, 128), dtype) for n in (256, 384, 384))
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    rows = jax.ShapeDtypeStruct((2, 3, 256), jnp.float32)
    forward = jax.jit(lambda q, k, v, n: flash_triton.forward(q, k, v, n, 0.1))
    backward = jax.jit(lambda *x: flash_triton.backward(*x[:4], 0.1, *x[4:]))
    for traced in (
        forward.trace(query, key, value, lengths),
        backward.trace(query, key, value, lengths, rows, rows, query),
    ):
        assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
