"""Attention of arrays that are split over the devices of a mesh, by rows and by tokens.

XLA splits everything else in the network by itself, but it can split neither hand-written kernels
nor a loop over blocks of keys. So each device runs the attention function on its own part:

    rows     each device has some rows of the batch; nothing is sent
    tokens   each device has S / n of the queries, keys and values. It gathers the keys and values
             of all devices and attends to them from its own queries: per layer and row it receives
             2 S D (n - 1) / n numbers, for 4 S^2 D / n operations. A function that only sums over
             the keys, as the Performer does, sums over the devices instead and sends less.

Gathering serves every exact function, whatever kernel computes it, because the function is called
as on one device. Ring attention would send as much, and its only gain would be that the gathered
keys and values of one layer, 2 S D numbers, do not exist. Its price would be one call per device
whose results are merged by their log-sum-exps, which not every kernel returns.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rf_jax.attention.registry import Attention, AttentionFn
from rf_jax.errors import InputError


def shard_attention(
    attention: Attention, mesh: Mesh, rows: str | tuple[str, ...] | None, tokens: str | None = None
) -> Attention:
    """The same attention, for arrays on a mesh.

    Args:
      attention: is returned as it is where XLA can split it.
      mesh: the devices.
      rows: the axes of the mesh over which the rows of the batch are split; None if they are not.
      tokens: the axis over which queries, keys and values are split alike; their number must be a
        multiple of its size. None if they are not split.

    Returns:
      an attention function of global arrays, to be called when a program for the mesh is traced.

    Raises:
      InputError: the function cannot be split by tokens.
    """
    if mesh.size == 1 or (tokens is None and not attention.rows_per_device):
        return attention
    if tokens is not None and not (attention.exact or attention.sums_keys):
        raise InputError(
            f"attention {attention.name}: tokens cannot be split over devices, because it is not "
            "known how it depends on the place of a query; use one device or an exact attention"
        )
    split = {"axis_name": tokens} if attention.sums_keys and tokens is not None else {}

    def on_mesh(function, variables=()):
        return _on_mesh(_gathering(function, None if split else tokens), variables, mesh, spec)

    spec = P(rows, tokens)

    def attend(*arrays: jax.Array, options: Any = None, **keywords: Any) -> jax.Array:
        """Stands for the function, with `attention`'s options."""
        function = functools.partial(attention.bind(**keywords), **split)
        return on_mesh(function)(*arrays)

    if not attention.has_variables:
        return dataclasses.replace(attention, function=attend)

    def make(*arguments: Any, **keywords: Any) -> AttentionFn:
        """Stands for the class of the module, whose variables the layer owns as before."""
        module = attention.function(*arguments, **split, **keywords)
        detached = module.clone(parent=None, name=None)
        return on_mesh(detached.apply, (dict(module.variables),))

    return dataclasses.replace(attention, function=make)


def _gathering(function: Callable, axis: str | None) -> Callable:
    """The function of all keys and values, for devices of which each has a part of them."""
    if axis is None:
        return function

    def attend(query, key, value, *key_lengths):
        key, value = gather_tokens(key, axis), gather_tokens(value, axis)
        return function(query, key, value, *key_lengths)

    return attend


def gather_tokens(x: jax.Array, axis: str) -> jax.Array:
    """[B, S / n, ...] on each of n devices -> [B, S, ...] on all of them."""
    return lax.all_gather(x, axis, axis=1, tiled=True)


def _on_mesh(function: Callable, variables: tuple[Any, ...], mesh: Mesh, spec: P) -> AttentionFn:
    """`function(*variables, query, key, value, key_lengths)` of each device's part.

    Args:
      spec: how queries, keys, values and results are split; every device has all variables.
    """

    def attend(query, key, value, *lengths):  # of the keys, and of the sinks, or None
        specs = (*[P()] * len(variables), spec, spec, spec, *[P(spec[0])] * len(lengths))
        part = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)
        return part(*variables, query, key, value, *lengths)

    return attend
