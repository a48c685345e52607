"""Run by test_agreement.py: what one of two processes finds in rounds that go wrong.

python agreeing_process.py PORT PROCESS FOLDER

Prints a line per case: the type of the error and its message, or the result.
"""

import os
import sys
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
port, me, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

import contextlib  # noqa: E402

from rf_jax.errors import InputError  # noqa: E402
from rf_jax.training import agreement, joining, workdir  # noqa: E402

joining.HEARTBEAT_SECONDS = 30
workdir.SHARED_SECONDS = 0.3


def fail(process, error):
    if me == process:
        raise error
    return "fine"


def claim(path):
    with contextlib.ExitStack() as stack:
        workdir.claim_workdir(path, stack)


def leave_the_others():
    with agreement.together():
        with agreement.together():
            fail(1, InputError("disk full"))
        print("not reached")


joining.join(f"localhost:{port}", 2, me)
CASES = {
    "nothing": lambda: agreement.attempt(fail, 2, None),
    "flag": lambda: agreement.agree(flag=me == 1),
    "bad input": lambda: agreement.attempt(fail, 1, InputError("no such file")),
    "bug": lambda: agreement.attempt(fail, 0, KeyError("bug")),
    "hopeless": lambda: agreement.attempt(fail, 0, agreement.HopelessRun("NaN")),
    "block": leave_the_others,
    "facts": lambda: agreement.check_same(lambda: {"a": 1, "b": [me]}, "make them equal"),
    "same facts": lambda: agreement.check_same(lambda: {"a": 1}, ""),
    "shared workdir": lambda: claim(folder / "shared"),
    "own workdirs": lambda: claim(folder / f"of_{me}"),
    "locked workdir": lambda: claim(folder / "locked"),
    "death": lambda: os._exit(9) if me == 1 else agreement.agree(),
}
for name, case in CASES.items():
    try:
        print(f"{name}: {case()}", flush=True)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
os._exit(0)
