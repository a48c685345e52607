"""Ctrl-C while a command still imports its modules just ends the process, without a traceback.

Libraries that are being imported may lose a KeyboardInterrupt, or turn it into other errors, so the
system ends the process instead. `rf_jax/__init__.py` begins this for `python -m rf_jax...`, the
start of a command (`rf_jax.commands.entry`) for scripts, and `run_command_line` ends it.
"""

import signal


def end_the_process() -> None:
    """From now on Ctrl-C ends the process, unless it is ignored or handled by others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_an_error() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, unless it is ignored or handled by others."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
