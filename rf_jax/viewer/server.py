"""The viewer as a whole: a scene, the thread that renders it, and the pages that show it."""

import concurrent.futures
import contextlib
import io
import math
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import viser

from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.description import Camera
from rf_jax.viewer.controls import SharedControls
from rf_jax.viewer.loop import RenderLoop, Settings
from rf_jax.viewer.objects import ObjectTree
from rf_jax.viewer.page import Page
from rf_jax.viewer.state import EditedScene


class Viewer:
    """Serves pages that show a scene, until `close`.

    Args:
      make_renderer: makes a renderer for the name of an attention function (or None).
      edited: the scene, from `open_scene`.
      settings: how images look at first.
      output_dir: folder for what pages save.
      host, port: the address that pages are served at, which `check_address` has checked; the next
        port that is free is taken.
      wireframe: whether triangles are drawn at first.

    Raises:
      InputError: the scene cannot be rendered.
    """

    def __init__(
        self,
        make_renderer: Callable[[str | None], Renderer],
        edited: EditedScene,
        settings: Settings,
        output_dir: Path,
        host: str = "127.0.0.1",
        port: int = 8080,
        wireframe: bool = False,
    ):
        self._folder, self._cameras = output_dir, edited.cameras
        # Everything is compiled before the first page
        self.loop = RenderLoop(make_renderer, edited, settings, self._on_scene, self._on_error)
        with contextlib.redirect_stdout(io.StringIO()):  # viser greets at length
            self.server = viser.ViserServer(host, port, label="rf_jax", verbose=False)
        # A page may close while an image is on its way to it
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection")
        # A page could ask viser for a public address, through somebody's server
        self.server.request_share_url = lambda verbose=True: None
        self.url = f"http://{_reached_at(host)}:{self.server.get_port()}"
        self.server.gui.configure_theme(show_share_button=False, dark_mode=True)
        self.server.gui.main_panel.dock_right()  # beside the picture, not over it
        self.server.scene.world_axes.visible = False
        self._start_at(self._cameras[0])
        self._tree = ObjectTree(self.server, self.loop, wireframe)
        self._controls = SharedControls(self.server, self.loop)
        self._pages: dict[int, Page] = {}
        self.server.on_client_connect(self._on_connect)
        self.server.on_client_disconnect(self._on_disconnect)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "rf_jax viewer")
        self._running = self._thread.submit(self.loop.run)

    def wait(self) -> None:
        """Waits for `close`, or for an error of the thread that renders, which it raises."""
        self._running.result()

    def close(self) -> None:
        self.loop.close()
        for page in list(self._pages.values()):
            page.close()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()
        self._thread.shutdown()

    def _start_at(self, camera: Camera) -> None:
        initial = self.server.initial_camera
        initial.position, initial.look_at, initial.up = camera.position, camera.look_at, camera.up
        initial.fov = math.radians(camera.fov)
        initial.near = 0.01

    def _on_connect(self, client: viser.ClientHandle) -> None:
        self._pages[client.client_id] = Page(client, self.loop, self._cameras, self._folder)
        if client.client_id not in self.server.get_clients():  # closed while it was made
            self._on_disconnect(client)

    def _on_disconnect(self, client: viser.ClientHandle) -> None:
        if page := self._pages.pop(client.client_id, None):
            page.close()

    def _on_scene(self, edited: EditedScene) -> None:
        self._tree.update(edited)

    def _on_error(self, message: str) -> None:
        """Shows what is still rendered, and why."""
        self._tree.reset(self.loop.edited.objects)
        self._controls.reset(self.loop.settings)
        for page in list(self._pages.values()):
            page.notify("Not rendered", message, "red")


def check_address(host: str, port: int) -> None:
    """Checks an address, for which viser would wait forever if nothing could be served there.

    Raises:
      InputError: nothing can be served there.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port: expected 0 to 65535 (0 for any that is free), found {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError as error:
        raise InputError(
            f"--host: expected an address of this machine, such as 127.0.0.1 or 0.0.0.0, found "
            f"{host!r} ({error.strerror or error})"
        ) from error


def _reached_at(host: str) -> str:
    """How browsers on this machine name an address."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
