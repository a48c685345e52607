"""Renders in another process, so that a crash inside Mitsuba fails a test and not the whole run."""

import concurrent.futures
import functools
import multiprocessing
from concurrent.futures.process import BrokenProcessPool

from known_scenes import CYCLES_PYTHON

from rf_jax.datagen.path_tracer import make_path_tracer


class RendererProcess:
    """One spawned process that runs functions; a new one takes its place when it crashes."""

    def __init__(self):
        self._start()

    def _start(self):
        spawn = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(1, spawn)

    def run(self, function, *arguments):
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            self._start()
            raise AssertionError("the renderer's process crashed") from error

    def close(self):
        self._pool.shutdown()


class RemoteTracer:
    """A path tracer in a renderer process."""

    def __init__(self, process, config, renderer):
        self._process, self._arguments = process, (config, renderer)

    def render(self, scene, seed):
        return self._process.run(_render, *self._arguments, scene, seed)


def _render(config, renderer, scene, seed):
    return _tracer(config, renderer).render(scene, seed)


@functools.cache
def _tracer(config, renderer):
    return make_path_tracer(config, renderer, CYCLES_PYTHON, 2)
