"""Where arrays are placed: on a mesh with axes `data` and `fsdp`; batches are split over both."""

import logging
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.errors import InputError

BATCH_AXES = ("data", "fsdp")
"""The axes of the mesh, over both of which the rows of a batch are split."""

SMALLEST_SPLIT = 2**14
"""Least number of elements of a leaf that is worth splitting."""


def make_mesh(fsdp: int, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges devices as a mesh [data, fsdp].

    Args:
      fsdp: number of devices that share the parameters.
      batch_size: number of scenes that are computed at a time.
      devices: the devices; None takes all, of all processes.

    Raises:
      InputError: the number of devices is not a multiple of `fsdp`, or the batch size not one of
        the number of devices.
    """
    devices = devices or jax.devices()
    count = len(devices)
    if count % fsdp:
        raise InputError(f"config.fsdp: expected a divisor of {count} devices, found {fsdp}")
    if batch_size % count:
        raise InputError(
            f"config.batch_size: expected a multiple of {count} devices (times "
            f"accumulation_steps), found {batch_size}; take {-(-batch_size // count) * count}"
        )
    shape = (count // fsdp, fsdp)
    return jax.make_mesh(shape, BATCH_AXES, (AxisType.Auto,) * 2, devices=devices)


def usable_devices(fsdp: int, batch_size: int, devices: list[jax.Device]) -> list[jax.Device]:
    """As many of the devices as can share a batch; if some are left out, a warning says so.

    A small configuration thus also runs where there are many devices. Where several processes train
    together, none can be left out, and all are returned.
    """
    count = len(devices)
    fitting = [n for n in range(fsdp, count + 1, fsdp) if batch_size % n == 0]
    if jax.process_count() > 1 or not fitting or fitting[-1] == count:
        return devices
    logging.warning(
        "%d of %d devices are used, because %d scenes at a time (config.batch_size / "
        "config.accumulation_steps) cannot be split over all; %d scenes can",
        *(fitting[-1], count, batch_size, -(-batch_size // count) * count),
    )
    return devices[: fitting[-1]]


def replicated(mesh: Mesh) -> NamedSharding:
    """Puts a whole copy on each device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """The sharding of each leaf of a state.

    A large leaf is split over `fsdp` along the longest of its axes whose size is a multiple of the
    number of devices. Other leaves are replicated.
    """
    parts = mesh.shape["fsdp"]

    def shard(leaf):
        axes = [i for i, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or leaf.size < SMALLEST_SPLIT or not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(shard, state)


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Global arrays [B, ...] on the mesh, made of the rows [B / n, ...] that each process has."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )
