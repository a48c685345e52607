"""Worker processes: how many to start, and how to end them with the process that started them."""

import multiprocessing
import os
import threading


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
