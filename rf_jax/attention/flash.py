"""Flash attention: exact, in Pallas kernels of our own, forward and backward.

The scores never leave the chip. The forward pass is an online softmax over blocks of keys
(FlashAttention-2, arXiv 2307.08691), and the backward pass computes the scores again and weighs
them by the saved log-sum-exp. Blocks of keys beyond the length are skipped, and only the last block
before it is masked. Sequences whose length is not a multiple of `LENGTH_MULTIPLE` are first copied
into padded ones.

The kernels are chosen by the device that a program is lowered for:
  on Hopper GPUs, for 16-bit types: `flash_mosaic` (Mosaic GPU; only Hopper has its wgmma).
  on Hopper for float32, and on other GPUs: `flash_triton` (Pallas' Triton lowering, for as long as
    JAX has it).
  on CPUs: `flash_triton` interpreted, which is correct but slow, and meant for tests.
  elsewhere: none, and `dot_product` takes their place.
"""

import functools
import importlib.util
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from rf_jax.attention import dot_product
from rf_jax.attention.exact import (
    Kernels,
    attend,
    by_capability,
    by_platform,
    weights_gradient_mean,
)
from rf_jax.attention.registry import Attention
from rf_jax.attention.target import HOPPER
from rf_jax.errors import InputError

LENGTH_MULTIPLE = 128
"""Queries and keys are padded to multiples of this length for the kernels."""

HEAD_DIMS = (64, 128)
"""Heads are padded to one of these widths for the kernels."""

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def flash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None = None
) -> jax.Array:
    """softmax(query key^T / sqrt(hd)) value; see `rf_jax.attention` for the contract.

    Raises:
      InputError: no kernel serves the head width or type; the message names an attention function
        that does.
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
    kernels = kernels_for(query.dtype, head_dim)
    if key_lengths is None:
        key_lengths = jnp.full((batch,), key.shape[1], jnp.int32)
    padded = (_pad(x) for x in (query, key, value))
    out, log_sum_exp = attend(kernels, head_dim**-0.5, *padded, key_lengths)
    return out[:, :num_queries, :, :head_dim], log_sum_exp[:, :, :num_queries]


def kernels_for(dtype: Any, head_dim: int) -> Kernels:
    """The kernels for all devices.

    Raises:
      InputError: there is none for that type or head width, or JAX does not have their compiler.
    """
    if dtype not in DTYPES or head_dim > HEAD_DIMS[-1]:
        raise InputError(
            f"attention flash: takes float32, bfloat16 and float16 heads of up to {HEAD_DIMS[-1]}, "
            f"found {jnp.dtype(dtype).name} heads of {head_dim}; dot_product takes any"
        )
    return _kernels(jnp.dtype(dtype) == jnp.float32)


@functools.cache
def _kernels(full: bool) -> Kernels:
    """The kernels for all devices, for float32 or for 16-bit types."""
    triton = _module("flash_triton", "jax._src.pallas.triton")
    compiled, interpreted = (
        _kernels_of(triton, interpret=interpret) for interpret in (False, True)
    )
    hopper = compiled
    if not full:
        mosaic = _module("flash_mosaic", "jax._src.pallas.mosaic_gpu")
        hopper = by_capability(lambda c: c == HOPPER, _kernels_of(mosaic), compiled)
    return by_platform(cpu=interpreted, cuda=hopper, rocm=compiled, default=dot_product.GPU_KERNELS)


def _kernels_of(module: ModuleType, **options: Any) -> Kernels:
    """The two functions of a module of kernels, with the arguments of `Kernels`."""

    def forward(query, key, value, key_lengths, *, scale):
        return module.forward(query, key, value, key_lengths, scale, **options)

    def backward(query, key, value, key_lengths, out, log_sum_exp, d_out, d_log_sum_exp, *, scale):
        delta = weights_gradient_mean(out, d_out, d_log_sum_exp)
        arguments = (query, key, value, key_lengths, scale, log_sum_exp, delta)
        return module.backward(*arguments, d_out.astype(query.dtype), **options)

    return Kernels(forward, backward)


def _module(name: str, needed: str) -> ModuleType:
    """Imports a module of kernels, which needs the given module of JAX."""
    if importlib.util.find_spec(needed) is None:
        raise InputError(
            f"attention flash: jax {jax.__version__} no longer has the compiler ({needed}) that "
            "its kernels need; use dot_product"
        )
    return importlib.import_module(f"rf_jax.attention.{name}")


def _pad(x: jax.Array) -> jax.Array:
    """Zero-pads [B, T, nh, hd] to the sizes of the kernels."""
    length, head_dim = x.shape[1], x.shape[3]
    width = next(d for d in HEAD_DIMS if d >= head_dim)
    return jnp.pad(x, ((0, 0), (0, -length % LENGTH_MULTIPLE), (0, 0), (0, width - head_dim)))


FLASH = Attention("flash", flash_attention, exact=True, rows_per_device=True)
