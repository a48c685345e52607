"""The folder "Path tracing" of a page, and the panel that compares its image with the truth."""

import threading
from collections.abc import Callable

import numpy as np
import viser

from rf_jax.errors import InputError
from rf_jax.images.comparison import comparison_image, with_titles
from rf_jax.images.metrics import psnr
from rf_jax.structs import Scene
from rf_jax.viewer.loop import Frame, RenderLoop, Settings
from rf_jax.viewer.path_traced import PathTracing
from rf_jax.viewer.picture import displayed

SAMPLES = ("64", "256", "1024", "4096")
"""Samples per pixel to choose from."""


class Tracing:
    """Path-traces what a page shows, on demand.

    Args:
      client: viser's handle of the page.
      loop: knows the scene and the settings.
      frame: returns the image that the page shows, or None.
    """

    def __init__(
        self, client: viser.ClientHandle, loop: RenderLoop, frame: Callable[[], Frame | None]
    ):
        self._client, self._loop, self._frame = client, loop, frame
        self._lock = threading.RLock()  # two clicks are two threads
        self._running: PathTracing | None = None
        self._panel: viser.PanelHandle | None = None
        gui = client.gui
        with gui.add_folder("Path tracing", order=4):
            self._samples = gui.add_dropdown("Samples", SAMPLES, initial_value=SAMPLES[1])
            start = gui.add_button("Compare", hint="the image with its path-traced truth")
            stop = gui.add_button("Stop and close")
            self._progress = gui.add_progress_bar(0.0)
        start.on_click(lambda event: self._start())
        stop.on_click(lambda event: self.close())

    def end(self) -> None:
        """Ends it."""
        with self._lock:
            if self._running is not None:
                self._running.stop()
                self._running = None

    def close(self) -> None:
        """Ends it and removes what it shows."""
        with self._lock:
            self.end()
            if self._panel is not None:
                self._panel.remove()
                self._panel = None
            self._progress.value = 0.0

    def _start(self) -> None:
        frame, settings = self._frame(), self._loop.settings
        if frame is None:
            return
        with self._lock:
            self.close()
            try:
                scene = traceable(self._loop.edited.scene, frame)
            except InputError as error:
                return self._fail(str(error))
            show = self._open_panel(frame, settings)
            samples = int(self._samples.value)
            self._running = PathTracing(scene, len(frame.linear), samples, show, self._fail)

    def _open_panel(self, frame: Frame, settings: Settings) -> Callable[[float, np.ndarray], None]:
        """A panel for a frame; what is returned shows the truth in it."""
        gui = self._client.gui
        panel = self._panel = gui.add_panel()
        with panel.add_tab("Comparison"):
            image = gui.add_image(
                compare(frame.linear, np.zeros_like(frame.linear), settings), format="png"
            )
            text = gui.add_markdown("The path tracer starts.")
        panel.float(x=15, y=15, width=620)

        def show(done: float, truth: np.ndarray) -> None:
            picture = compare(frame.linear, truth, settings)
            decibels = float(psnr(frame.linear, truth))
            with self._lock:
                if self._panel is not panel:  # closed since
                    return
                self._progress.value = 100 * done
                image.image = picture
                text.content = f"{100 * done:.0f}% of the samples; PSNR {decibels:.1f} dB"

        return show

    def _fail(self, message: str) -> None:
        self.close()
        self._client.add_notification("No path-traced image", message, color="red")


def traceable(scene: object, frame: Frame) -> Scene:
    """The scene as the path tracer takes it, seen as in a frame.

    Raises:
      InputError: the path tracer does not render such scenes.
    """
    if not isinstance(scene, Scene) or np.ndim(scene.texture) != 2:
        raise InputError(
            "the path tracer renders scenes of RenderFormer V1 with one material per triangle; "
            "this scene has others"
        )
    return frame.view.of(scene)


def compare(linear: np.ndarray, truth: np.ndarray, settings: Settings) -> np.ndarray:
    """The image, the truth and the FLIP error, with titles: uint8 [rows, columns, 3]."""
    pair = (displayed(image, settings.exposure, settings.tone_mapper) for image in (linear, truth))
    return with_titles(comparison_image(*pair))
