"""Flash attention: exact, in Pallas kernels of our own, forward and backward.

The scores never leave the chip. The forward pass is an online softmax over blocks of keys
(FlashAttention-2, arXiv 2307.08691), and the backward pass computes the scores again and weighs
them by the saved log-sum-exp. Blocks of keys beyond the length are skipped, and only the last block
before it is masked. Sequences whose length is not a multiple of `LENGTH_MULTIPLE` are first copied
into padded ones.

`backend` chooses the kernels:
  on Hopper GPUs, for 16-bit types: `flash_mosaic` (Mosaic GPU; only Hopper has its wgmma).
  on Hopper for float32, and on other NVIDIA GPUs: `flash_triton` (Pallas' Triton lowering, for as
    long as JAX has it).
  on CPUs: `flash_triton` interpreted, which is correct but slow, and meant for tests.
"""

import functools
import importlib.util
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from rf_jax.attention.registry import Attention
from rf_jax.errors import InputError

LENGTH_MULTIPLE = 128
"""Queries and keys are padded to multiples of this length for the kernels."""

HEAD_DIMS = (64, 128)
"""Heads are padded to one of these widths for the kernels."""

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)

HOPPER = 9.0
"""The compute capability of Hopper GPUs."""


def flash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """softmax(query key^T / sqrt(hd)) value; see `rf_jax.attention` for the contract.

    Raises:
      InputError: no kernel serves the head width, type or device; the message names an attention
        function that does.
    """
    return flash_attention_with_log_sum_exp(query, key, value, key_lengths)[0]


def flash_attention_with_log_sum_exp(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """`flash_attention`, and the log-sum-exp of the scaled scores; both are differentiable.

    Returns:
      out [B, T, nh, hd] and log_sum_exp [B, nh, T] float32, both 0 in rows without keys.
    """
    batch, num_queries, _, head_dim = query.shape
    kernels = backend(query.dtype, head_dim)
    if key_lengths is None:
        key_lengths = jnp.full((batch,), key.shape[1], jnp.int32)
    padded = (_pad(x) for x in (query, key, value))
    out, log_sum_exp = _attend(kernels, head_dim**-0.5, *padded, key_lengths)
    return out[:, :num_queries, :, :head_dim], log_sum_exp[:, :, :num_queries]


def backend(dtype: Any, head_dim: int) -> ModuleType:
    """The module of kernels for the default device.

    Raises:
      InputError: there is no kernel for that type, head width or device.
    """
    if dtype not in DTYPES or head_dim > HEAD_DIMS[-1]:
        raise InputError(
            f"attention flash: takes float32, bfloat16 and float16 heads of up to {HEAD_DIMS[-1]}, "
            f"found {jnp.dtype(dtype).name} heads of {head_dim}; dot_product takes any"
        )
    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        raise InputError(f"attention flash: has no kernel for {platform}; use dot_product")
    if platform == "gpu" and dtype != jnp.float32 and _compute_capability() == HOPPER:
        return _kernels("flash_mosaic", "jax._src.pallas.mosaic_gpu")
    return _kernels("flash_triton", "jax._src.pallas.triton")


def _kernels(name: str, needed: str) -> ModuleType:
    """Imports a module of kernels, which needs the given module of JAX."""
    if importlib.util.find_spec(needed) is None:
        raise InputError(
            f"attention flash: jax {jax.__version__} no longer has the compiler ({needed}) that "
            "this device needs; use dot_product"
        )
    return importlib.import_module(f"rf_jax.attention.{name}")


def _compute_capability() -> float:
    return float(jax.devices()[0].compute_capability)


def _pad(x: jax.Array) -> jax.Array:
    """Zero-pads [B, T, nh, hd] to the sizes of the kernels."""
    length, head_dim = x.shape[1], x.shape[3]
    width = next(d for d in HEAD_DIMS if d >= head_dim)
    return jnp.pad(x, ((0, 0), (0, -length % LENGTH_MULTIPLE), (0, 0), (0, width - head_dim)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernels, scale, query, key, value, key_lengths):
    return kernels.forward(query, key, value, key_lengths, scale)


def _attend_forward(kernels, scale, query, key, value, key_lengths):
    out, log_sum_exp = kernels.forward(query, key, value, key_lengths, scale)
    return (out, log_sum_exp), (query, key, value, key_lengths, out, log_sum_exp)


def _attend_backward(kernels, scale, saved, cotangents):
    query, key, value, key_lengths, out, log_sum_exp = saved
    d_out, d_log_sum_exp = cotangents
    # d_scores = weights * (d_weights - delta), where delta takes in both the row sums of
    # d_out * out and the gradient of the log-sum-exp.
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    delta = delta.transpose(0, 2, 1) - d_log_sum_exp  # (B, nh, T)
    gradients = kernels.backward(
        query, key, value, key_lengths, scale, log_sum_exp, delta, d_out.astype(query.dtype)
    )
    return (*gradients, None)


_attend.defvjp(_attend_forward, _attend_backward)


FLASH = Attention("flash", flash_attention, exact=True, rows_per_device=True)
