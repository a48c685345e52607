"""What all commands share: the form of their options, and how they end."""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from traceback import walk_stack
from typing import Any, TextIO

from rf_jax import __version__
from rf_jax.errors import InputError, one_line, printable
from rf_jax.interrupts import raise_an_error

BROKEN_PIPE = 141
"""Exit status of a process that SIGPIPE ended, as shells report it."""

INTERRUPTED = 130
"""The same for SIGINT (Ctrl-C)."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and states the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is None or action.default is False
        if unset or "default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class LineFormatter(logging.Formatter):
    """Prints "warning: message" as one line without control characters: files choose names."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(f"{record.levelname.lower()}: {record.message}", 1000)


class _Printable:
    """A text stream that prints what terminals act on in escaped form."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_parser(description: str, subcommand: str = "") -> argparse.ArgumentParser:
    """A parser with `--version`, to which a command adds its options.

    Args:
      description: what the command does; `%(prog)s` stands for its name.
      subcommand: a word that belongs to the command's name.
    """
    parser = argparse.ArgumentParser(
        prog=f"{_program_name()} {subcommand}".strip(),
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rf_jax {__version__}")
    return parser


def _program_name() -> str:
    """How the user started this program: rf-jax-render, python render.py, python -m a.module."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    if specification is not None:
        return f"python -m {specification.name.removesuffix('.__main__')}"
    script = Path(sys.argv[0])
    return f"python {script.name}" if script.suffix == ".py" else script.stem


def add_config_option(add: Callable, examples: str, required: bool = True) -> None:
    """The option `--config`, whose keys `parse_with_overrides` lets change.

    Args:
      add: a parser's `add_argument`.
      examples: names of configurations.
      required: whether the command needs one.
    """
    add(
        "--config",
        required=required,
        help=f"{examples} and so on, or a Python file; --config.KEY=VALUE changes a key",
    )


def parse_with_overrides(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command, and those that change a key of its configuration."""
    args, overrides = parser.parse_known_args()
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        parser.error(f"unknown options {' '.join(unknown)}; keys are --config.KEY=VALUE")
    return args, overrides


def run_command_line(
    main: Callable[[], None],
    memory_advice: str = (
        "lower --resolution or --batch_size, use --precision fp16, or render fewer triangles"
    ),
    leave: Callable[[int], None] = sys.exit,
) -> None:
    """Runs a command's `main` and ends the process.

    The exit status is 0; 2, with one line on stderr, if the input is bad or memory runs out (the
    line then has `memory_advice`); 130 after an interrupt by the user. If the output cannot be
    written, it is 141 after its reader has gone (`| head`), else 1 with a line that says why.
    `leave` ends the process with that status.
    """
    raise_an_error()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler])
    _silence_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may have characters that the terminal has not, or that it acts on.
        sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout = _Printable(sys.stdout)
    status = _status(main, memory_advice)
    try:
        print(end="", flush=True)
    except OSError as error:
        status = status or _report_lost_output(error)
    leave(status)


def _status(main: Callable[[], None], memory_advice: str) -> int:
    """Runs `main`, reports its error, and returns the exit status of the process."""
    try:
        main()
    except SystemExit as end:  # argparse, after it has printed the reason
        return end.code
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError:
        lost = _lost_output()
        if lost is None:
            raise
        return _report_lost_output(lost)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        return _fail(f"out of memory: {memory_advice}")
    return 0


def _fail(message: str) -> int:
    """Prints an error of one line, and returns the exit status of the process."""
    try:
        print("error:", message, file=sys.stderr)
    except OSError:
        _discard(sys.stderr)
    return 2


def _lost_output() -> OSError | None:
    """What is wrong with stdout, if anything; it gets an empty line to find out."""
    try:
        print(flush=True)
    except OSError as error:
        return error
    return None


def _report_lost_output(error: OSError) -> int:
    """Ends the use of stdout, and returns the exit status of the process."""
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    _fail(f"the output cannot be written: {error.strerror}")
    return 1


def _discard(stream: TextIO) -> None:
    """Lets what the stream still holds disappear, which Python would try to write at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    """Reports errors that cannot be raised as Python does, except those of Orbax's late tasks.

    An interrupt that arrived in a callback (JAX has one for the garbage collector) is sent again.
    """
    if isinstance(late.exc_value, KeyboardInterrupt):
        threading.Thread(target=_interrupt_again).start()
    elif str(late.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(late)


def _interrupt_again() -> None:
    """Interrupts the main thread once it has left `_report_unraisable`, which would lose that."""
    main, hook = threading.main_thread().ident, _report_unraisable.__code__
    while any(frame.f_code is hook for frame, _ in walk_stack(sys._current_frames()[main])):
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGINT)
