"""Pooled and latent attention, against their dense definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.attention import get_attention
from rf_jax.attention.latent import LatentOptions, latent_flops
from rf_jax.attention.pooled import PooledOptions, pooled_flops

POOLED, LATENT = PooledOptions(block=48), LatentOptions(latents=12)

# Tokens and valid tokens of two rows: lengths that no block divides, one token, all in one block.
CASES = [(300, (300, 250)), (301, (241, 1)), (96, (96, 48)), (40, (40, 7))]


def inputs(case, dtype=jnp.float32):
    tokens, lengths = case
    rng = np.random.default_rng(tokens)
    heads = tuple(jnp.asarray(x, dtype) for x in rng.normal(size=(3, 2, tokens, 3, 16)))
    return heads, jnp.asarray(lengths, jnp.int32)


def latents():
    return jax.random.normal(jax.random.key(3), (LATENT.latents, 3, 16))


def bound(options, latents=None):
    """The attention function; latents are the last argument of that with variables."""
    if options is POOLED:
        return get_attention("pooled", (options,)).bind()
    module = get_attention("latent", (options,)).bind()

    def attend(*arrays):
        *arrays, latents = arrays
        return module.apply({"params": {"latents": latents}}, *arrays)

    return attend


def softmax(scores, valid):
    weights = jnp.exp(scores) * valid
    total = weights.sum(-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def pooled_reference(query, key, value, lengths):
    """Every row reads its block and the means of others, each with the weight of its tokens."""
    place, block, rows = np.arange(query.shape[1]), POOLED.block, []
    for row, length in enumerate(np.asarray(lengths)):
        member = place // block == np.arange(-(-len(place) // block))[:, None]
        member &= place < length
        counts = member.sum(1)
        means = member / np.maximum(counts, 1)[:, None]
        own = place // block == np.arange(len(counts))[:, None]
        reads = np.concatenate([own.T @ own & (place < length), ~own.T & (counts > 0)], 1)
        keys, values = (
            jnp.concatenate([x[row], jnp.einsum("bs,shd->bhd", means, x[row])])
            for x in (key, value)
        )
        bias = np.log(np.concatenate([np.ones(len(place)), np.maximum(counts, 1)]))
        scores = jnp.einsum("qhd,khd->hqk", query[row], keys) / query.shape[-1] ** 0.5
        rows.append(jnp.einsum("hqk,khd->qhd", softmax(scores + bias, reads), values))
    return jnp.stack(rows)


def latent_reference(query, key, value, lengths, latents):
    scale = query.shape[-1] ** -0.5
    valid = np.arange(key.shape[1]) < np.asarray(lengths)[:, None, None, None]
    weights = softmax(jnp.einsum("mhd,bkhd->bhmk", latents, key) * scale, valid)
    read = jnp.einsum("bhmk,bkhd->bhmd", weights, value)
    weights = softmax(jnp.einsum("bqhd,mhd->bhqm", query, latents) * scale, 1)
    return jnp.einsum("bhqm,bhmd->bqhd", weights, read)


FUNCTIONS = [(POOLED, pooled_reference, ()), (LATENT, latent_reference, (latents(),))]
NAMES = ["pooled", "latent"]


def valid_rows(lengths, tokens):
    return (np.arange(tokens) < np.asarray(lengths)[:, None])[..., None, None]


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("options", "reference", "variables"), FUNCTIONS, ids=NAMES)
@pytest.mark.parametrize(
    ("case", "dtype", "tolerance", "gradient_tolerance"),
    [
        *((case, jnp.float32, 1e-6, 1e-5) for case in CASES),
        (CASES[0], jnp.bfloat16, 6e-3, 2e-2),
        (CASES[0], jnp.float16, 1e-3, 4e-3),
    ],
)
def test_result_and_gradients(
    options, reference, variables, case, dtype, tolerance, gradient_tolerance
):
    heads, lengths = inputs(case, dtype)
    valid = valid_rows(lengths, case[0])
    cotangent = np.random.default_rng(1).normal(size=heads[0].shape) * valid

    def differentiated(attend, *arrays):
        def loss(*arrays):
            out = attend(*arrays[:3], lengths, *arrays[3:])
            return jnp.sum(out * cotangent.astype(out.dtype)), out

        every = tuple(range(len(arrays)))
        gradients, out = jax.jit(jax.grad(loss, argnums=every, has_aux=True))(*arrays)
        return np.where(valid, out, 0), *gradients

    actual = differentiated(bound(options), *heads, *variables)
    assert all(x.dtype == dtype for x in actual[:4])
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(x, np.float64)) for x in (*heads, *variables))
        expected = differentiated(reference, *wide)
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert relative_error(a, np.asarray(e)) <= (gradient_tolerance if i else tolerance)


@pytest.mark.parametrize(("options", "reference", "variables"), FUNCTIONS, ids=NAMES)
def test_padding_is_never_read(options, reference, variables):
    heads, lengths = inputs(CASES[1])
    valid = valid_rows(lengths, CASES[1][0])
    attend = jax.jit(bound(options))
    clean = attend(*heads, lengths, *variables)
    dirty = [jnp.where(valid, x, f) for x, f in zip(heads, (1e5, 1e4, -1e4), strict=True)]
    assert np.array_equal(clean * valid, attend(*dirty, lengths, *variables) * valid)
    longer = [jnp.pad(x, ((0, 0), (0, 99), (0, 0), (0, 0)), constant_values=1e4) for x in heads]
    found = attend(*longer, lengths, *variables)[:, : CASES[1][0]]
    assert relative_error(found * valid, clean * valid) <= 1e-6


@pytest.mark.parametrize(("options", "reference", "variables"), FUNCTIONS, ids=NAMES)
def test_rows_of_a_batch_stand_alone(options, reference, variables):
    heads, lengths = inputs(CASES[1])
    together = jax.jit(bound(options))(*heads, lengths, *variables)
    for row, length in enumerate(map(int, lengths)):
        cut = [x[row : row + 1, :length] for x in heads]
        alone = jax.jit(bound(options))(*cut, None, *variables)
        assert relative_error(together[row, :length], alone[0]) <= 1e-6


@pytest.mark.parametrize(("options", "reference", "variables"), FUNCTIONS, ids=NAMES)
def test_a_row_of_length_0_gives_zeros(options, reference, variables):
    heads, _ = inputs(CASES[0])
    out = jax.jit(bound(options))(*heads, jnp.asarray([0, 300]), *variables)
    assert not out[0].any() and out[1].any()


def test_latents_ignore_the_order_of_tokens():
    heads, _ = inputs(CASES[0])
    order = np.random.default_rng(0).permutation(300)
    attend = jax.jit(bound(LATENT))
    out = attend(*(x[:, order] for x in heads), None, latents())
    assert relative_error(out, attend(*heads, None, latents())[:, order]) <= 1e-6


def test_operations_are_those_of_the_pairs():
    """Blocks of 48, 48 and 4 tokens, which read 2 means each; and 12 latents."""
    pairs = 48 * 48 * 2 + 4 * 4 + 100 * 2
    assert pooled_flops(100, 100, 32, 2, POOLED) == 4 * 32 * pairs
    assert pooled_flops(40, 40, 32, 2, POOLED) == 4 * 32 * 40 * 40
    assert latent_flops(100, 100, 32, 2, LATENT) == 2 * 4 * 32 * 100 * 12
