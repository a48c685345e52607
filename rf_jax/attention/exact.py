"""The derivative of exact attention, whichever kernels compute it.

Kernels are chosen when a program is lowered, and not when it is traced, so that a program can be
lowered for a device that this machine does not have. The choice lies within the forward pass and
within the backward pass, which keep the same arrays for each other on every device.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rf_jax.attention.target import compute_capability


class Kernels(NamedTuple):
    """What computes attention whose scores are scale (query . key).

    Attributes:
      forward: (query, key, value, key_lengths, *, scale) -> out [B, T, nh, hd] in the type of
        query, and the log-sum-exp of the scores [B, nh, T], in float32 at least.
      backward: (query, key, value, key_lengths, out, log_sum_exp, d_out, d_log_sum_exp, *, scale)
        -> the gradients of query, which is 0 in rows without keys, of key and of value.
    """

    forward: Callable
    backward: Callable


def by_platform(*, default: Kernels, **kernels: Kernels) -> Kernels:
    """Kernels that are chosen by platform ("cpu", "cuda", "rocm", "tpu")."""

    def choose(name):
        def run(*arrays, scale):
            run_default, *others = (
                functools.partial(getattr(k, name), scale=scale)
                for k in (default, *kernels.values())
            )
            others = dict(zip(kernels, others, strict=True))
            return lax.platform_dependent(*arrays, default=run_default, **others)

        return run

    return Kernels(choose("forward"), choose("backward"))


def by_capability(takes: Callable, kernels: Kernels, otherwise: Kernels) -> Kernels:
    """Kernels for some NVIDIA GPUs, and others for the rest.

    Args:
      takes: tells of ten times a compute capability (80 for an A100) whether `kernels` run there.
    """

    def choose(name):
        def run(*arrays, scale):
            choices = (functools.partial(getattr(k, name), scale=scale) for k in pair)
            return lax.cond(takes(compute_capability()), *choices, *arrays)

        return run

    pair = kernels, otherwise
    return Kernels(choose("forward"), choose("backward"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(kernels, scale, query, key, value, key_lengths):
    """The result of `kernels.forward`, with the derivatives of `kernels.backward`.

    The gradients of keys and values beyond the lengths are 0, whatever the kernels leave there:
    cuDNN may not write them at all (openxla/xla pull request 44867).
    """
    return kernels.forward(query, key, value, key_lengths, scale=scale)


def _attend_forward(kernels, scale, query, key, value, key_lengths):
    out, log_sum_exp = kernels.forward(query, key, value, key_lengths, scale=scale)
    return (out, log_sum_exp), (query, key, value, key_lengths, out, log_sum_exp)


def _attend_backward(kernels, scale, saved, cotangents):
    d_query, d_key, d_value = kernels.backward(*saved, *cotangents, scale=scale)
    key_lengths = saved[3]
    valid = (jnp.arange(d_key.shape[1]) < key_lengths[:, None])[..., None, None]
    return (
        d_query,
        jnp.where(valid, d_key, 0),
        jnp.where(valid, d_value, 0),
        None,
    )


attend.defvjp(_attend_forward, _attend_backward)


def weights_gradient_mean(out, d_out, d_log_sum_exp):
    """The mean of the weights' gradient under the weights [B, nh, T], in float32 at least.

    The gradient of the scores is weights (d_weights - this). It is the row sum of d_out out (Dao
    2023, arXiv 2307.08691, algorithm 2), less the gradient of the log-sum-exp.
    """
    dtype = d_log_sum_exp.dtype
    rows = jnp.sum(d_out.astype(dtype) * out.astype(dtype), axis=-1)
    return rows.transpose(0, 2, 1) - d_log_sum_exp
