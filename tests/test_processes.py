"""What a process does with its memory, and with Ctrl-C."""

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


BLOCKED = """
import multiprocessing, pathlib, re, time
from rf_jax.processes import interrupts_held_back

process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
with interrupts_held_back():
    process.start()
status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
process.kill()
print(int(re.search(r"SigBlk:\\s*(\\w+)", status)[1], 16) >> 1 & 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_first_process_that_is_started_is_deaf_to_interrupts():
    command = [sys.executable, "-c", BLOCKED]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("1\n", "")
