"""cuDNN's attention for 16-bit types, forward and backward, as kernels that any machine can lower.

`jax.nn.dot_product_attention` calls the same two functions of XLA, but it asks for cuDNN when a
program is traced, so that a machine without it could not even trace. The calls and their
configuration are those of `jax/_src/cudnn/fused_attention_stablehlo.py`. Lengths are passed and no
mask, which cuDNN would turn into a bias as large as the scores.
"""

import json

import jax
import jax.numpy as jnp

from rf_jax.attention.exact import Kernels

LENGTH_MULTIPLE = 128
"""Sequences are padded to multiples of this, because cuDNN's backward pass has given NaN on Hopper
for other lengths (pytorch issue 196678)."""

LARGEST_HEAD_DIM = 128
"""Largest head width that every GPU with cuDNN's attention takes."""

LEAST_CAPABILITY = 80
"""Ten times the least compute capability for which cuDNN has these kernels."""

# Axes of heads and of positions in [B, T, nh, hd], and in the scores [B, nh, T, S].
_FORWARD_PRODUCTS = {
    "bmm1": ((3, 3), (0, 2), (0, 2)),
    "bmm2": ((3, 1), (0, 1), (0, 2)),
}
_BACKWARD_PRODUCTS = {
    "bmm1_grad_gemm1": ((2, 1), (0, 1), (0, 2)),
    "bmm1_grad_gemm2": ((3, 1), (0, 1), (0, 2)),
    "bmm2_grad_gemm1": ((2, 1), (0, 1), (0, 2)),
    "bmm2_grad_gemm2": ((3, 3), (0, 2), (0, 2)),
}


def takes(dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether cuDNN has kernels for heads of this type and width."""
    half = dtype in (jnp.bfloat16, jnp.float16)
    return half and head_dim % 8 == 0 and head_dim <= LARGEST_HEAD_DIM


def forward(query, key, value, key_lengths, *, scale):
    """See `rf_jax.attention.exact.Kernels`."""
    length, by_value = query.shape[1], clears_values(query, key)
    if by_value:
        value = cleared(value, key_lengths)
    query, key, value = (_pad(x) for x in (query, key, value))
    lengths = jnp.full_like(key_lengths, length), jnp.maximum(key_lengths, 1)
    out, log_sum_exp = _call(
        "__cudnn$fmhaSoftmax",
        _FORWARD_PRODUCTS,
        scale,
        (query, key, value, *lengths),
        heads=(query,),
        statistics=True,
    )
    out = out[:, :length]
    return out if by_value else cleared(out, key_lengths), log_sum_exp[:, :, :length]


def backward(query, key, value, key_lengths, out, log_sum_exp, d_out, d_log_sum_exp, *, scale):
    """See `rf_jax.attention.exact.Kernels`; the log-sum-exp must not have a gradient."""
    length, num_keys, by_value = query.shape[1], key.shape[1], clears_values(query, key)
    if by_value:
        value = cleared(value, key_lengths)
    query, key, value, out, d_out = (_pad(x) for x in (query, key, value, out, d_out))
    log_sum_exp = jnp.pad(log_sum_exp, ((0, 0), (0, 0), (0, query.shape[1] - length)))
    lengths = jnp.full_like(key_lengths, length), jnp.maximum(key_lengths, 1)
    d_query, d_key, d_value = _call(
        "__cudnn$fmhaSoftmaxBackward",
        _BACKWARD_PRODUCTS,
        scale,
        (query, key, value, log_sum_exp, d_out, out, *lengths),
        heads=(query, key, value),
    )
    d_query = d_query[:, :length]
    d_query = d_query if by_value else cleared(d_query, key_lengths)
    return d_query, d_key[:, :num_keys], d_value[:, :num_keys]


KERNELS = Kernels(forward, backward)


def clears_values(query, key):
    """Whether the values of rows without keys are cleared, and not their results.

    Such rows read one value then, which is 0, and so are their results and the gradients of their
    queries. Values often come from another kernel that can write the zeros, but no kernel follows
    that could write them into results. With more than twice as many keys as queries, clearing the
    results is the smaller pass nevertheless.
    """
    return 2 * query.shape[1] >= key.shape[1]


def cleared(x, key_lengths):
    """x [B, ...] with 0 in rows without keys."""
    return jnp.where((key_lengths > 0)[:, None, None, None], x, 0)


def _call(target, products, scale, arguments, heads, statistics=False):
    """Calls cuDNN.

    Args:
      target: the name of the function.
      products: its products in `_configuration`.
      scale: factor of the scores.
      arguments: its arrays, of which the first two are query and key.
      heads: arrays [B, T, nh, hd] that the first results are like.
      statistics: whether [B, nh, T] in float32 is the last result.

    Returns:
      the results.
    """
    batch, num_queries, num_heads, _ = arguments[0].shape
    scores = batch, num_heads, num_queries, arguments[1].shape[1]
    results, layouts = [], []
    for x in heads:  # [B, nh, T, hd] that lies in memory as [B, T, nh, hd]
        batch, length, num_heads, head_dim = x.shape
        results.append(jax.ShapeDtypeStruct((batch, num_heads, length, head_dim), x.dtype))
        layouts.append((0, 2, 1, 3))
    if statistics:
        results.append(jax.ShapeDtypeStruct(scores[:3], jnp.float32))
        layouts.append((0, 1, 2))
    results.append(jax.ShapeDtypeStruct((0,), jnp.uint8))  # XLA makes this cuDNN's workspace
    layouts.append((0,))
    *outputs, _ = jax.ffi.ffi_call(
        target,
        results,
        output_layouts=layouts,
        custom_call_api_version=2,
        legacy_backend_config=_configuration(products, scale, scores, arguments[0].dtype),
    )(*arguments)
    return *(x.transpose(0, 2, 1, 3) for x in outputs[: len(heads)]), *outputs[len(heads) :]


def _configuration(products, scale, scores, dtype):
    """XLA's description of the call (`CudnnfMHABackendConfig`) as JSON.

    Args:
      products: by name, the contracted axes of both operands, and their batch axes.
      scale: factor of the scores.
      scores: shape of the scores.
      dtype: their type.
    """
    dimensions = {
        f"{name}_dot_dimension_numbers": {
            "lhs_contracting_dimensions": [str(contracted[0])],
            "rhs_contracting_dimensions": [str(contracted[1])],
            "lhs_batch_dimensions": [str(axis) for axis in left],
            "rhs_batch_dimensions": [str(axis) for axis in right],
        }
        for name, (contracted, left, right) in products.items()
    }
    fmha = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": scale,
        "intermediate_tensor_shape": {
            "element_type": "BF16" if dtype == jnp.bfloat16 else "F16",
            "dimensions": [str(size) for size in scores],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "PADDING",
        "dropout_rate": 0.0,
        "seed": 42,
        "sliding_window_length": 0,
        "max_seg_per_batch": 1,
        "is_paged_attention": False,
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": fmha | dimensions})


def _pad(x):
    """Zero-pads the sequences of [B, T, nh, hd] to a multiple of `LENGTH_MULTIPLE`."""
    missing = -x.shape[1] % LENGTH_MULTIPLE
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x
