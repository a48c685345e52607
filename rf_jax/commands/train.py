"""Trains a RenderFormer network.

    %(prog)s --config tiny --workdir workdirs/tiny
    %(prog)s --config base_256 --workdir W --config.batch_size=64

The same command continues a run that was stopped. On several nodes, add --multi_process.
"""

import argparse
import socket
import time
from pathlib import Path

import jax

from rf_jax.command_line import make_parser, parse_with_overrides
from rf_jax.compilation import enable_compilation_cache
from rf_jax.config_files import load_config_file
from rf_jax.errors import InputError
from rf_jax.processes import keep_freed_memory
from rf_jax.training.config import TrainingConfig
from rf_jax.training.loop import train_and_evaluate

JOIN_SECONDS = 300
"""How long the processes of a run wait for each other."""


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--config",
        required=True,
        help="tiny, base_256 and so on, or a Python file; --config.KEY=VALUE changes a key",
    )
    add("--workdir", type=Path, required=True, help="folder of the run; created if missing")
    add(
        "--multi_process",
        action="store_true",
        help="join the other processes of the run, as SLURM, Open MPI or Kubernetes started them; "
        "under other launchers, give the next three options instead",
    )
    add(
        "--coordinator",
        help="host:port of process 0 (default: the launcher's); processes that do not meet there "
        f"within {JOIN_SECONDS} seconds end",
    )
    add(
        "--num_processes",
        type=int,
        help="how many processes train together (default: the launcher's)",
    )
    add(
        "--process_id",
        type=int,
        help="number of this process, from 0 (default: the launcher's)",
    )
    return parse_with_overrides(parser)


def connect(args: argparse.Namespace) -> None:
    """Joins the other processes of the run."""
    if args.coordinator:
        _check_coordinator(args.coordinator, wait=bool(args.process_id))
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.num_processes,
            args.process_id,
            initialization_timeout=JOIN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--multi_process: the processes cannot be joined ({error}); give --coordinator, "
            "--num_processes and --process_id"
        ) from error


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


def main() -> None:
    args, overrides = parse_args()
    keep_freed_memory()
    config = load_config_file(TrainingConfig, args.config, overrides)
    if args.multi_process or args.coordinator:
        connect(args)
    enable_compilation_cache()
    train_and_evaluate(config, args.workdir)
