"""Worker processes: how many there may be, and that none outlives the process that started it."""

import multiprocessing
import os
import threading


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def end_with_parent() -> None:
    """Ends this worker as soon as its parent dies, even by SIGKILL, instead of waiting for work."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
