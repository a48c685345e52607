"""The Hopper kernels of flash attention, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jax.experimental.pallas.mosaic_gpu", reason="this jax has no Mosaic GPU")

from rf_jax.attention import flash_mosaic


def _reference(query, key, value, lengths, d_out, scale):
    """out, log_sum_exp, delta and the gradients, in float64."""
    query, key, value, d_out = (np.asarray(x, np.float64) for x in (query, key, value, d_out))
    valid = np.arange(key.shape[1]) < np.asarray(lengths)[:, None]
    key, value = (np.where(valid[..., None, None], x, 0) for x in (key, value))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * scale
    scores = np.where(valid[:, None, None], scores, -np.inf)
    maximum = np.maximum(scores.max(-1, keepdims=True), -1e30)
    weights = np.exp(scores - maximum)
    total = weights.sum(-1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    log_sum_exp = np.where(total > 0, maximum + np.log(np.where(total > 0, total, 1)), 0)[..., 0]
    out = np.einsum("bhqk,bkhd->bqhd", weights, value)
    delta = np.einsum("bqhd,bqhd->bhq", out, d_out)
    d_weights = np.einsum("bqhd,bkhd->bhqk", d_out, value)
    d_scores = weights * (d_weights - delta[..., None]) * scale
    gradients = (
        np.einsum("bhqk,bkhd->bqhd", d_scores, key),
        np.einsum("bhqk,bqhd->bkhd", d_scores, query),
        np.einsum("bhqk,bqhd->bkhd", weights, d_out),
    )
    return out, log_sum_exp, delta, gradients


def _case(dtype, head_dim, num_queries, num_keys, lengths, num_heads):
    """query, key, value, lengths, d_out; keys and values beyond the lengths are garbage."""
    rng = np.random.default_rng(0)
    queries, keys = ((len(lengths), n, num_heads, head_dim) for n in (num_queries, num_keys))
    query, key, value, d_out = (rng.normal(size=x) for x in (queries, keys, keys, queries))
    beyond = (np.arange(num_keys) >= np.asarray(lengths)[:, None])[..., None, None]
    key, value = (np.where(beyond, 3e4, x) for x in (key, value))
    query, key, value, d_out = (jnp.asarray(x, dtype) for x in (query, key, value, d_out))
    return query, key, value, jnp.asarray(lengths, jnp.int32), d_out


def _error(found, expected):
    """Relative to the expected array, or to 0.1 an element where that is smaller."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    size = max(np.linalg.norm(expected), 0.1 * np.sqrt(expected.size))
    return np.linalg.norm(found - expected) / size


CASES = {
    "ragged, two heads": dict(
        dtype=jnp.bfloat16, head_dim=128, num_queries=128, num_keys=256, lengths=[200], num_heads=2
    ),
    "rings filled twice, skipped block": dict(
        dtype=jnp.float16, head_dim=64, num_queries=256, num_keys=640, lengths=[500], num_heads=1
    ),
    "no key and one": dict(
        dtype=jnp.bfloat16, head_dim=64, num_queries=128, num_keys=128, lengths=[0, 1], num_heads=1
    ),
}
SCALE = 0.1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_forward_and_backward(interpret_kernels, case):
    query, key, value, lengths, d_out = _case(**case)
    expected, expected_lse, delta, expected_gradients = _reference(
        query, key, value, lengths, d_out, SCALE
    )
    run = interpret_kernels
    out, lse = run(flash_mosaic.forward, query, key, value, lengths, SCALE)
    assert out.dtype == case["dtype"]
    assert _error(out, expected) < (1e-3 if case["dtype"] == jnp.float16 else 4e-3)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5)
    empty = np.asarray(lengths) == 0
    assert not out[empty].any() and not lse[empty].any()

    delta = jnp.asarray(delta, jnp.float32)
    gradients = run(
        flash_mosaic.backward, query, key, value, lengths, SCALE, jnp.asarray(lse), delta, d_out
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == case["dtype"]
        assert _error(gradient, expected_gradient) < 1e-2
    beyond = np.arange(key.shape[1]) >= np.asarray(lengths)[:, None]
    assert not gradients[0][empty].any()
    assert not gradients[1][beyond].any() and not gradients[2][beyond].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_lowers_for_cuda_without_a_device(head_dim, dtype):
    query = jax.ShapeDtypeStruct((2, 256, 3, head_dim), dtype)
    key = jax.ShapeDtypeStruct((2, 384, 3, head_dim), dtype)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    rows = jax.ShapeDtypeStruct((2, 3, 256), jnp.float32)

    def both(query, key, value, lengths, log_sum_exp, delta, d_out):
        arguments = (query, key, value, lengths, SCALE)
        gradients = flash_mosaic.backward(*arguments, log_sum_exp, delta, d_out)
        return flash_mosaic.forward(*arguments), gradients

    arguments = (query, key, key, lengths, rows, rows, query)
    lowered = jax.jit(both).trace(*arguments).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("@mosaic_gpu") == 3
