"""SIGTERM and Ctrl-C, which stop a run after the step that it is computing."""

import os
import signal


class StopSignal:
    """Notes that this process was asked to stop; a second Ctrl-C ends it at once.

    Attributes:
      asked: whether this process got SIGTERM or Ctrl-C.
      interrupted: whether it got Ctrl-C.
    """

    def __enter__(self):
        self.asked = self.interrupted = False
        handlers = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._ask}
        self._previous = {
            number: signal.signal(number, handler) for number, handler in handlers.items()
        }
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, *_):
        self.asked = True

    def _interrupt(self, *_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.asked = self.interrupted = True
        # A handler must not print, because it may interrupt a print.
        os.write(2, b"\nsaving a checkpoint; Ctrl-C again ends the run without one\n")
