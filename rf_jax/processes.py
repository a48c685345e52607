"""Worker processes: how many to start and how they end; and the memory of this process."""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor


def cpu_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def end_with_parent() -> None:
    """Makes this worker process end as soon as its parent dies, even by SIGKILL.

    A worker would otherwise wait for work forever.
    """

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """Ends the worker processes of a pool at once; what they were doing is lost.

    None of its futures may have been cancelled: Python 3.11 cannot tell those that the pool is
    broken, and prints a traceback instead.
    """
    for process in list(pool._processes.values()):  # has a public name from Python 3.14 on
        process.kill()


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Makes processes that are started inside deaf to Ctrl-C, from their first moment on.

    Ctrl-C in a terminal goes to all processes of its session; only the first one is to handle it.
    """
    # Python starts this process with the first one, and then lets SIGINT through again.
    multiprocessing.resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Parameters of glibc's `mallopt` (its manual page, mallopt(3))."""


def keep_freed_memory() -> None:
    """Keeps memory that is freed for the next allocation, where the C library is glibc.

    It otherwise returns large blocks to the kernel. A training step on a CPU then spends up to a
    third of its time on pages that the kernel clears and maps again. Call this before threads
    start.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
