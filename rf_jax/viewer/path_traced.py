"""Path-traced images in a process of their own, while the viewer goes on."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.path_tracer import check_renderer, make_path_tracer
from rf_jax.errors import InputError, one_line
from rf_jax.processes import cpu_count, end_with_parent, interrupts_held_back
from rf_jax.structs import Scene

PASSES = 16
"""Parts of the samples; after each one the image so far is shown."""


class PathTracing:
    """One image that is being path-traced.

    Args:
      scene: unbatched, with one view and one texture value per triangle.
      resolution: side in pixels.
      samples: per pixel, rounded up to a multiple of `PASSES`.
      on_image: is given the fraction of the samples that are done, and their mean [H, H, 3].
      on_error: is given the message if it cannot be rendered.
    """

    def __init__(
        self,
        scene: Scene,
        resolution: int,
        samples: int,
        on_image: Callable[[float, np.ndarray], None],
        on_error: Callable[[str], None],
    ):
        config = RenderConfig(resolution=resolution, spp=-(-samples // PASSES))
        context = multiprocessing.get_context("spawn")
        self._images, theirs = context.Pipe(duplex=False)
        with interrupts_held_back():
            self._process = context.Process(
                target=_trace, args=(theirs, scene, config), daemon=True
            )
            self._process.start()
        theirs.close()
        self._stopped = False
        self._on_image, self._on_error = on_image, on_error
        threading.Thread(target=self._receive, daemon=True).start()

    def stop(self) -> None:
        """Ends it before all samples are done."""
        self._stopped = True
        self._process.kill()

    def _receive(self) -> None:
        done = 0
        try:
            while done < PASSES:
                message = self._images.recv()
                if isinstance(message, str):
                    return self._on_error(message)
                done += 1
                self._on_image(done / PASSES, message)
        except EOFError:
            self._process.join()
            if not self._stopped:
                self._on_error(f"the path tracer ended (status {self._process.exitcode})")
        finally:
            self._images.close()
            self._process.join()


def _trace(images: Connection, scene: Scene, config: RenderConfig) -> None:
    """Sends the mean of the samples after each pass, or a message."""
    end_with_parent()
    os.nice(10)  # the viewer comes first
    try:
        tracer = make_path_tracer(config, check_renderer(config, None), None, cpu_count())
        mean = np.zeros((config.resolution, config.resolution, 3), np.float32)
        for i in range(PASSES):
            image = tracer.render(scene, seed=i * config.spp)[0, ..., :3]
            mean += (image - mean) / (i + 1)
            images.send(mean)
    except InputError as error:
        images.send(str(error))
    except (RuntimeError, ValueError, MemoryError) as error:  # what Mitsuba raises
        images.send(f"Mitsuba cannot render it ({one_line(error, 120)})")
