"""Attention lowered for devices that this machine does not have: the kernels are the right ones."""

import functools
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

from rf_jax.attention import cudnn, dot_product, get_attention, target
from rf_jax.attention.exact import Kernels, attend, by_capability


def gradient_text(function, platform, dtype=jnp.bfloat16, length=256, num_keys=384):
    """The StableHLO of an attention function's forward and backward pass on a platform."""
    query, key = (jax.ShapeDtypeStruct((2, n, 3, 64), dtype) for n in (length, num_keys))
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)

    def loss(query, key, value, lengths):
        out = function(query, key, value, lengths)
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    traced = both.trace(query, key, key, lengths)
    return traced.lower(lowering_platforms=(platform,)).as_text()


CUDNN, TRITON, MOSAIC = "__cudnn$fmha", "triton", "mosaic_gpu"


@pytest.mark.parametrize(
    ("name", "dtype", "platform", "expected"),
    [
        ("auto", jnp.bfloat16, "cuda", {CUDNN}),
        ("auto", jnp.float16, "cuda", {CUDNN}),
        ("auto", jnp.float32, "cuda", set()),
        ("auto", jnp.bfloat16, "cpu", set()),
        ("auto", jnp.bfloat16, "rocm", set()),
        ("auto", jnp.bfloat16, "tpu", set()),
        ("dot_product", jnp.bfloat16, "cuda", set()),
        ("flash", jnp.float32, "cuda", {TRITON}),
        ("flash", jnp.bfloat16, "cuda", {TRITON, MOSAIC}),
        ("flash", jnp.bfloat16, "cpu", set()),
        ("flash", jnp.bfloat16, "tpu", set()),
    ],
)
@pytest.mark.usefixtures("hopper")
def test_kernels_are_those_of_the_platform(name, dtype, platform, expected):
    text = gradient_text(get_attention(name).bind(), platform, dtype)
    assert {kernel for kernel in (CUDNN, TRITON, MOSAIC) if kernel in text} == expected


@pytest.mark.parametrize("name", ["auto", "dot_product", "performer"])
def test_gpus_wait_for_no_condition_in_float32(name):
    attention = get_attention(name)
    function = attention.bind()
    if attention.has_variables:
        module = attention.function(attention.options)
        query = jnp.zeros((2, 16, 3, 64))
        function = functools.partial(
            module.apply, module.init(jax.random.key(0), query, query, query)
        )
    text = gradient_text(function, "cuda", jnp.float32, 3000, 9000)
    assert "stablehlo.while" in text  # blocks are few, but there is more than one
    # What remains is decided by constants (%c, %c_0 and so on): the choice of the platform.
    cases = re.findall(r'(%\w+)(?::\d+)? = "stablehlo.(?:case|if)"\((%\w+)\)', text)
    constant = {result for result, decided_by in cases if decided_by.startswith("%c")}
    assert all(decided_by in constant or result in constant for result, decided_by in cases)


def cudnn_calls(function):
    """The types and configurations of the calls of cuDNN."""
    text = gradient_text(function, "cuda")
    calls = re.findall(r"custom_call @(__cudnn\$\w+)\((.*)\) \{(.*)\} : (.*)", text)
    configurations = [
        json.loads(
            re.search(r'backend_config = "(.*?)"[,}]', call[2] + "}")[1].replace("\\22", '"')
        )
        for call in calls
    ]
    return [(name, types) for name, _, _, types in calls], configurations


def test_calls_of_cudnn_are_those_of_jax(monkeypatch):
    """So that a change of JAX's configuration does not go unnoticed."""
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)

    def reference(query, key, value, lengths):
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            query_seq_lengths=jnp.full((2,), query.shape[1], jnp.int32),
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )

    types, configurations = cudnn_calls(get_attention("auto").bind())
    expected_types, expected = cudnn_calls(reference)
    assert len(types) == 2 and types == expected_types
    defaults = {"0", "PRIMITIVE_TYPE_INVALID"}
    for ours, theirs in zip(configurations, expected, strict=True):
        shape = theirs["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]
        for part in (shape, shape["layout"]):
            for key in [k for k, v in part.items() if v == [] or v in tuple(defaults)]:
                del part[key]
        assert ours == theirs


def test_sequences_of_cudnn_are_multiples_of_128():
    text = gradient_text(get_attention("auto").bind(), "cuda", length=100, num_keys=200)
    shapes = re.findall(
        r"custom_call @__cudnn.* : \(tensor<2x(\d+)x3x64xbf16>, tensor<2x(\d+)x", text
    )
    assert shapes == [("128", "256")] * 2


def cuda_client(capability):
    device = types.SimpleNamespace(compute_capability=capability)
    return types.SimpleNamespace(devices=lambda: [device])


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (cuda_client("7.5"), 75),
        (cuda_client("9.0"), 90),
        (cuda_client("10.3"), 103),
        (jax.devices()[0].client, target.UNKNOWN),
        (None, target.UNKNOWN),
    ],
)
def test_the_capability_is_that_of_the_compile_target(client, expected):
    assert target.capability_of(client) == expected


@pytest.mark.parametrize(("capability", "expected"), [(75, 2.0), (80, 1.0), (90, 1.0)])
def test_older_gpus_take_the_other_kernels(monkeypatch, capability, expected):
    def constant(number):
        return Kernels(lambda query, *_, scale: jnp.full_like(query, number), None)

    monkeypatch.setattr(target, "capability_of", lambda client: capability)
    kernels = by_capability(lambda c: c >= cudnn.LEAST_CAPABILITY, constant(1.0), constant(2.0))
    query = jnp.zeros((1, 2, 1, 8))
    out = jax.jit(lambda x: kernels.forward(x, x, x, None, scale=1.0))(query)
    assert np.all(out == expected)


def test_gradients_that_kernels_leave_beyond_the_lengths_are_dropped():
    """cuDNN may not write them; NaN stands for what the memory held."""
    exact = dot_product.CPU_KERNELS
    query, key, value = jax.random.normal(jax.random.key(0), (3, 3, 20, 2, 16))
    lengths = jnp.array([20, 13, 0])
    beyond = (jnp.arange(20) >= lengths[:, None])[..., None, None]

    def backward(*arrays, scale):
        d_query, d_key, d_value = exact.backward(*arrays, scale=scale)
        return d_query, *(jnp.where(beyond, jnp.nan, x) for x in (d_key, d_value))

    def gradients(kernels):
        def loss(query, key, value):
            return jnp.sum(jnp.square(attend(kernels, 0.25, query, key, value, lengths)[0]))

        return jax.grad(loss, (0, 1, 2))(query, key, value)

    stand_in = Kernels(exact.forward, backward)
    for found, expected in zip(gradients(stand_in), gradients(exact), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("num_keys", [20, 41])
def test_rows_without_keys_are_zeros_though_cudnn_reads_one(monkeypatch, num_keys):
    """The products of `dot_product` stand in for cuDNN's, which knows no length of 0."""
    exact = dot_product.CPU_KERNELS
    query, d_out = jax.random.normal(jax.random.key(0), (2, 3, 20, 2, 16))
    key, value = jax.random.normal(jax.random.key(1), (2, 3, num_keys, 2, 16))
    lengths = jnp.array([20, 0, 13])

    def call(target, products, scale, arguments, heads, statistics=False):
        query, key, value, *rest, _, lengths = arguments
        assert lengths.tolist() == [20, 1, 13]
        if statistics:
            return exact.forward(query, key, value, lengths, scale=scale)
        log_sum_exp, d_out, out = rest
        zeros = jnp.zeros_like(log_sum_exp)
        arrays = (query, key, value, lengths, out, log_sum_exp, d_out, zeros)
        return exact.backward(*arrays, scale=scale)

    def run(kernels):
        out, log_sum_exp = kernels.forward(query, key, value, lengths, scale=0.25)
        arrays = (query, key, value, lengths, out, log_sum_exp, d_out, jnp.zeros_like(log_sum_exp))
        return out, kernels.backward(*arrays, scale=0.25)[0]

    monkeypatch.setattr(cudnn, "_call", call)
    for found, expected in zip(run(cudnn.KERNELS), run(exact), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert not found[1].any()
