"""The one error type for bad user input, and how command lines report it."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator


class InputError(ValueError):
    """Bad input from a user: a file, a field of it, an option.

    The message is one line: where (file and field), what was expected, what was found, what to do.
    """


@contextlib.contextmanager
def prefix_errors(where: str) -> Iterator[None]:
    """Prepends `where` (a file name) to the message of any InputError raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def run_command_line(
    main: Callable[[], None],
    memory_advice: str = (
        "lower --resolution or --batch_size, use --precision fp16, or render fewer triangles"
    ),
) -> None:
    """Runs a script's `main`, and ends the process with one line on stderr if the input is bad.

    The exit status is then 2. The same happens when memory runs out, with `memory_advice` in the
    line. An interrupt by the user ends the process with status 130.
    """
    _silence_libraries()
    try:
        main()
    except InputError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        sys.exit(_fail(f"out of memory: {memory_advice}"))


def _silence_libraries() -> None:
    """Keeps what Orbax prints about a failure off stderr, because our message is one line.

    Orbax logs the traceback of an error that it raises. Other reads and writes that were running at
    that time complain until the process ends that nobody waits for them.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _report_unraisable


def _report_unraisable(late: "sys.UnraisableHookArgs") -> None:
    """Reports errors that cannot be raised as Python does, except those of Orbax's late tasks."""
    if str(late.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(late)


def _fail(message: str) -> int:
    """Prints an error as one line, and returns the exit status of the process."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    return 2
