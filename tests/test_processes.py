"""What a process does with its memory."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
from rf_jax.processes import keep_freed_memory

def allocate():
    for _ in range(10):
        b"x" * 2**25

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults()
print(faults())
"""


def page_faults(argument):
    command = [sys.executable, "-c", FAULTS, argument]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again_without_page_faults():
    pages = 10 * 2**25 // 4096
    assert page_faults("keep") < pages / 100 < page_faults("leave")
