"""SwiGLU with one kernel for the gate and the products that meet in it, on Hopper GPUs.

The kernel is chosen when a program is lowered. On other devices, for float32, and for sizes that
it does not take, XLA computes the same.
"""

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rf_jax.attention.target import HOPPER, compute_capability
from rf_jax.models.products import gradients_of_both, precise_product

Split = tuple[Mesh, P]
"""A mesh, and how tokens [B, S, D] are split over it: XLA cannot split a kernel by itself."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def fused_swiglu(
    x: jax.Array, w1: jax.Array, w3: jax.Array, w2: jax.Array, split: Split | None = None
) -> jax.Array:
    """(silu(x w1) * (x w3)) w2.

    Args:
      x: [B, S, D].
      w1, w3: [D, F], in the type of x.
      w2: [F, D], in the type of x.
      split: how x is split over devices, which all have the weights; None on one device.

    Returns:
      [B, S, D].
    """
    (hidden,) = _hidden(x, w1, w3, split, keep=False)
    return precise_product(hidden, w2)


def _forward(x, w1, w3, w2, split):
    hidden, first, gate = _hidden(x, w1, w3, split, keep=True)
    return precise_product(hidden, w2), (x, w1, w3, w2, hidden, first, gate)


def _backward(split, saved, d_out):
    x, w1, w3, w2, hidden, first, gate = saved
    d_both = _d_both(d_out, w2, first, gate, split)
    d_x, d_w1, d_w3 = gradients_of_both(x, w1, w3, d_both)
    (d_w2,) = jax.vjp(functools.partial(precise_product, hidden), w2)[1](d_out)
    return d_x, d_w1, d_w3, d_w2


fused_swiglu.defvjp(_forward, _backward)


def _hidden(x, w1, w3, split, keep):
    """silu(x w1) * (x w3), and with `keep` also both products."""

    def by_xla(x, w1, w3):
        first, gate = (precise_product(x, kernel) for kernel in (w1, w3))
        hidden = jax.nn.silu(first) * gate
        return (hidden, first, gate) if keep else (hidden,)

    def by_kernel(x, w1, w3):
        rows = x.reshape(-1, x.shape[-1])
        return tuple(
            result.reshape(*x.shape[:-1], -1)
            for result in _hopper_kernels().forward(rows, w1, w3, keep)
        )

    return _on_devices(by_kernel, by_xla, (x,), (w1, w3), w1.shape, split)


def _d_both(d_out, w2, first, gate, split):
    """The gradients of both products, beside each other, from that of hidden w2."""

    def by_xla(d_out, first, gate, w2):
        d_hidden = precise_product(d_out, w2.T)
        d_first, d_gate = jax.vjp(lambda a, b: jax.nn.silu(a) * b, first, gate)[1](d_hidden)
        return jnp.concatenate([d_first, d_gate], axis=-1)

    def by_kernel(d_out, first, gate, w2):
        rows = (array.reshape(-1, array.shape[-1]) for array in (first, gate))
        d_both = _hopper_kernels().backward(d_out.reshape(-1, d_out.shape[-1]), w2, *rows)
        return d_both.reshape(*d_out.shape[:-1], -1)

    return _on_devices(by_kernel, by_xla, (d_out, first, gate), (w2,), w2.shape[::-1], split)


def _on_devices(by_kernel: Callable, by_xla: Callable, tokens, weights, sizes, split):
    """Runs one of two functions of (*tokens, *weights) on each device's tokens.

    Args:
      tokens: arrays [B, S, ...], of which each device has a part.
      weights: arrays that each device has.
      sizes: D and F.
      split: as in `fused_swiglu`.
    """

    def run(*arrays):
        x, kernels = arrays[0], _hopper_kernels()
        if kernels is None or not kernels.takes(x.dtype, x.size // x.shape[-1], *sizes):
            return by_xla(*arrays)

        def on_cuda(*arrays):
            return jax.lax.cond(compute_capability() == HOPPER, by_kernel, by_xla, *arrays)

        return jax.lax.platform_dependent(*arrays, cuda=on_cuda, default=by_xla)

    if split is None:
        return run(*tokens, *weights)
    mesh, spec = split
    specs = (*[spec] * len(tokens), *[P()] * len(weights))
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(
        *tokens, *weights
    )


@functools.cache
def _hopper_kernels() -> ModuleType | None:
    """The module of kernels; None if JAX does not have their compiler."""
    if importlib.util.find_spec("jax._src.pallas.mosaic_gpu") is None:
        return None
    return importlib.import_module("rf_jax.models.swiglu_mosaic")
