"""Where arrays live: a mesh of `data` and `fsdp` devices, batches split over both."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.attention import Attention
from rf_jax.errors import InputError

BATCH_AXES = ("data", "fsdp")

SMALLEST_SPLIT = 2**14
"""Leaves of fewer numbers are not worth splitting."""


def make_mesh(fsdp: int, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (of all processes), `fsdp` of them in a row splitting the parameters.

    Raises:
      InputError: the devices or the batch do not divide.
    """
    devices = devices or jax.devices()
    if len(devices) % fsdp:
        raise InputError(f"config.fsdp: expected a divisor of {len(devices)} devices, found {fsdp}")
    if batch_size % len(devices):
        raise InputError(
            f"config.batch_size: expected a multiple of {len(devices)} devices (times "
            f"accumulation_steps), found {batch_size}"
        )
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, BATCH_AXES, (AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A sharding for each leaf: its longest axis that divides goes over `fsdp`, if it is large."""
    parts = mesh.shape["fsdp"]

    def shard(leaf):
        axes = [i for i, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or leaf.size < SMALLEST_SPLIT or not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(shard, state)


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Global arrays of the rows that each process has."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def shard_attention(attention: Attention, mesh: Mesh) -> Attention:
    """The same attention; one that XLA cannot split runs on each device for its own rows."""
    if mesh.size == 1 or not attention.rows_per_device:
        return attention
    rows = P(BATCH_AXES)
    on_rows = jax.shard_map(
        attention.bind(), mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )

    def attend(query, key, value, key_lengths=None):
        arguments = (query, key, value, key_lengths)
        return on_rows(*(x for x in arguments if x is not None))

    return dataclasses.replace(attention, function=attend, options=None)
