"""Trains a RenderFormer network.

    %(prog)s --config tiny --workdir workdirs/tiny
    %(prog)s --config base_256 --workdir W --config.batch_size=64

The same command continues a run that was stopped. On several nodes, add --multi_process.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

import jax

from rf_jax.command_line import add_config_option, make_parser, parse_with_overrides
from rf_jax.compilation import enable_compilation_cache
from rf_jax.config_files import load_config_file
from rf_jax.processes import keep_freed_memory
from rf_jax.training.agreement import together
from rf_jax.training.config import TrainingConfig
from rf_jax.training.joining import JOIN_SECONDS, join
from rf_jax.training.loop import train_and_evaluate


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config_option(add, "tiny, base_256")
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
    args, overrides = parse_with_overrides(parser)
    numbered = args.num_processes is not None or args.process_id is not None
    if numbered and not (args.multi_process or args.coordinator):
        parser.error("--num_processes and --process_id: give --coordinator HOST:PORT with them")
    return args, overrides


def main() -> None:
    args, overrides = parse_args()
    keep_freed_memory()
    if args.multi_process or args.coordinator:
        join(args.coordinator, args.num_processes, args.process_id)
    with together():
        config = load_config_file(TrainingConfig, args.config, overrides)
    enable_compilation_cache()
    train_and_evaluate(config, args.workdir)


def leave(status: int) -> None:
    """Ends the process; where several train together, without waiting for what it still writes."""
    if status == 0 or not jax.distributed.is_initialized():
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()  # waits until all have said why they end
    os._exit(status)
