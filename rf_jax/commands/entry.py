"""Starts the commands: the console scripts, the scripts at the top of the repository, `python -m`.

A command's module is imported only when the command runs, so an interrupt or a missing package ends
it in the same way at any time.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rf_jax.command_line import run_command_line
from rf_jax.interrupts import end_the_process, raise_an_error


def _command(module: str, *memory_advice: str, **options: Any) -> Callable[[], None]:
    """A function that runs `main` of a module as a command and ends the process."""

    return lambda: run_command_line(lambda: _imported(module).main(), *memory_advice, **options)


def _imported(module: str) -> ModuleType:
    """The module; Ctrl-C during its import just ends the process (see `rf_jax.interrupts`)."""
    end_the_process()
    imported = importlib.import_module(module)
    raise_an_error()
    return imported


render = _command("rf_jax.commands.render")
train = _command(
    "rf_jax.commands.train",
    "lower --config.batch_size, or set --config.remat=True, --config.accumulation_steps=N or "
    "--config.fsdp=N",
    leave=lambda status: _imported("rf_jax.commands.train").leave(status),
)
convert = _command(
    "rf_jax.commands.convert", "close other programs: weights need three times their size"
)
data = _command("rf_jax.commands.data")
evaluate = _command("rf_jax.commands.evaluate")
inverse = _command("rf_jax.commands.inverse", "give --remat, or smaller targets")
scene = _command("rf_jax.commands.scene")
plan = _command("rf_jax.commands.plan", "close other programs: compiling needs several GB")
view = _command("rf_jax.commands.view")
