"""Joining the processes of a run, on one host or on many, and sharing the GPUs of each host."""

import collections
import ctypes
import json
import os
import socket
import time
from collections.abc import Sequence

import jax

from rf_jax.errors import InputError, listed
from rf_jax.training.agreement import (
    HEARTBEAT_SECONDS,
    attempt,
    check_same,
    gather,
    process_number,
    together,
)

JOIN_SECONDS = 300
"""How long the processes of a run wait for each other when it starts."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run; to be called before anything runs on a device.

    Processes that see the same GPUs share them evenly, whatever launcher started them: one process
    per host takes all, one process per GPU takes one each.

    Args:
      coordinator: host:port of process 0; None takes the launcher's (SLURM, Open MPI, Kubernetes).
      num_processes, process_id: how many there are, and which one this is; None likewise.

    Raises:
      InputError: the processes do not meet, or do not use all GPUs of their hosts.
    """
    if coordinator:
        # Open MPI 5 tells how many processes there are, but not where the first one is.
        num_processes = _or_variable(num_processes, "OMPI_COMM_WORLD_SIZE")
        process_id = _or_variable(process_id, "OMPI_COMM_WORLD_RANK")
        _check_coordinator(coordinator, wait=bool(process_id))
    # JAX's own handling of SIGTERM takes the signal away from Python; `StopSignal` does more.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_device_ids=[],  # all; JAX would take one per process under SLURM and Open MPI
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--multi_process: the processes cannot be joined ({error}); give --coordinator, "
            "--num_processes and --process_id"
        ) from error
    with together():
        _share_devices()


def _or_variable(value: int | None, name: str) -> int | None:
    """The value, or else that of an environment variable that may be missing."""
    return int(os.environ[name]) if value is None and name in os.environ else value


def _check_coordinator(address: str, wait: bool) -> None:
    """Refuses an address of another form, and waits until a process listens there.

    JAX would end the process with a trace of its own if none did.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--coordinator: expected host:port, found {address!r}")
    end = time.monotonic() + JOIN_SECONDS
    while wait:
        try:
            socket.create_connection((host, int(port)), timeout=JOIN_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"--coordinator {address}: no process listens there after {JOIN_SECONDS} "
                    f"seconds ({error.strerror or error}); start the one with --process_id 0, and "
                    "give its host"
                ) from error
        time.sleep(0.2)


def _share_devices() -> None:
    """Takes this process's share of the GPUs that it sees, and checks what all have together."""
    visible = visible_gpus()
    allotted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    record = json.dumps([socket.gethostname(), visible, allotted])
    found = [json.loads(text) for text in gather(record)]
    # All agree on the shares first, because looking for devices waits for the other processes.
    share, _ = attempt(share_gpus, [gpus for _, gpus, _ in found], process_number())
    if len(share) < len(visible):
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, share)))
    _check_all_used(found)
    devices = jax.local_devices()
    _check_devices(devices, len(share))
    check_same(
        lambda: {"devices per process": len(devices)},
        "start as many processes on each host as on others",
    )
    if jax.process_index() == 0:
        print(_described([host for host, _, _ in found], devices), flush=True)


def visible_gpus() -> list[str]:
    """The identities of the NVIDIA GPUs that this process may use, in the driver's order.

    The driver is asked, because JAX must know its share before it looks for devices. There are
    none where the user has chosen another platform.
    """
    platforms = jax.config.jax_platforms
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    uuids = []
    for device in range(count.value):
        uuid = ctypes.create_string_buffer(16)
        cuda.cuDeviceGetUuid_v2(uuid, device)
        uuids.append(uuid.raw.hex())
    return uuids


def share_gpus(visible: Sequence[Sequence[str]], process: int) -> list[int]:
    """The positions, in its own list, of the GPUs that a process takes.

    Args:
      visible: for each process, the identities of the GPUs that it sees.
      process: which of them.

    Raises:
      InputError: some processes see only a part of each other's GPUs, or they cannot be shared
        evenly.
    """
    mine = visible[process]
    sharing = [i for i, gpus in enumerate(visible) if set(gpus) & set(mine)]
    if not sharing:
        return []
    others = [i for i in sharing if set(visible[i]) != set(mine)]
    if others:
        raise InputError(
            f"expected processes that see the same GPUs or none in common, but processes {process} "
            f"and {others[0]} share some of theirs; start one process per node or one per GPU"
        )
    if len(mine) % len(sharing):
        raise InputError(
            f"expected a number of processes that divides the {len(mine)} GPUs of their node, "
            f"found {len(sharing)}; start one process per node or one per GPU"
        )
    size = len(mine) // len(sharing)
    first = sharing.index(process) * size
    return sorted(map(mine.index, sorted(mine)[first : first + size]))


def _check_all_used(found: list) -> None:
    """Checks that the processes of each host see all GPUs that SLURM gave the job there."""
    seen = collections.defaultdict(set)
    for host, gpus, _ in found:
        seen[host] |= set(gpus)
    for host, _, allotted in found:
        if seen[host] and allotted.isdecimal() and len(seen[host]) < int(allotted):
            raise InputError(
                f"{host}: expected to use all {allotted} GPUs of the job, but its processes see "
                f"{len(seen[host])}; start one process per node without --gpus-per-task and "
                "--gpu-bind, or one per GPU"
            )


def _check_devices(devices: list[jax.Device], expected: int) -> None:
    if expected and (devices[0].platform != "gpu" or len(devices) != expected):
        raise InputError(
            f"{socket.gethostname()}: expected {expected} GPUs, JAX found {len(devices)} devices "
            f"of kind {devices[0].platform}; pip install 'rf_jax[cuda12]', or set JAX_PLATFORMS=cpu"
        )


def _described(hosts: list[str], devices: list[jax.Device]) -> str:
    names = list(dict.fromkeys(hosts))
    return (
        f"processes: {len(hosts)}, on {len(names)} hosts ({listed(names)}), with "
        f"{len(devices)} devices each ({devices[0].device_kind})"
    )
