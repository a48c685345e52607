"""Takes the place of a worker's work; scene 2 kills the process in its first two attempts."""

import os


def work(index, attempt):
    if index == 2 and attempt < 2:
        os._exit(9)
    return index, attempt
