"""Starts the commands: the console scripts, the scripts at the top of the repository, `python -m`.

A command's module is imported only when the command runs, so an interrupt or a missing package ends
it in the same way at any time.
"""

import importlib
import signal
from collections.abc import Callable

from rf_jax.command_line import run_command_line


def _command(module: str, *memory_advice: str) -> Callable[[], None]:
    """A function that runs `main` of a module as a command and ends the process."""

    def main() -> None:
        # Imports of libraries may lose a KeyboardInterrupt; until `main`, one just ends the process
        handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
        main = importlib.import_module(module).main
        signal.signal(signal.SIGINT, handler)
        main()

    return lambda: run_command_line(main, *memory_advice)


render = _command("rf_jax.commands.render")
train = _command("rf_jax.commands.train")
convert = _command(
    "rf_jax.commands.convert", "close other programs: weights need three times their size"
)
data = _command("rf_jax.commands.data")
evaluate = _command("rf_jax.evaluate")
scene = _command("rf_jax.commands.scene")
