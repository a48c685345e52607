"""Takes the place of a worker's work; scene 2 kills the process in its first two attempts."""

import os

from rf_jax.datagen.scene_files import Outcome


def work(index, attempt):
    if index == 2 and attempt < 2:
        os._exit(9)
    return Outcome(index, {"attempt": attempt}, ())
