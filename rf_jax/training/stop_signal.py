"""SIGTERM and Ctrl-C, which stop a run after the step that it is computing."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Makes all processes stop at the same step after SIGTERM or Ctrl-C.

    A second Ctrl-C ends this process at once.

    Attributes:
      interrupted: whether this process got Ctrl-C.
    """

    def __enter__(self):
        self._asked = self.interrupted = False
        self._previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt)}
        if jax.process_count() == 1:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def at(self, step: int) -> bool:
        """Whether to stop before step number `step`."""
        if jax.process_count() == 1:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)

    def _ask(self, *_):
        self._asked = True

    def _interrupt(self, *_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.interrupted = True
        # A handler must not print, because it may interrupt a print.
        os.write(2, b"\nsaving a checkpoint; Ctrl-C again ends the run without one\n")
        # JAX tells the other processes about SIGTERM only.
        os.kill(os.getpid(), signal.SIGTERM)
