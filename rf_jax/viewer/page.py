"""What one page has of its own: its camera, its image, its files and its path-traced image."""

import collections
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import viser

from rf_jax.errors import InputError
from rf_jax.scene.check import scene_warnings
from rf_jax.scene.description import Camera
from rf_jax.scene.triangles import scene_camera
from rf_jax.viewer.cameras import camera_path, camera_to_world
from rf_jax.viewer.loop import Frame, RenderLoop, View
from rf_jax.viewer.saving import save_edited, save_image
from rf_jax.viewer.tracing import Tracing

STATUS_SECONDS = 0.5
"""Time between two texts about the time of images."""

JPEG_QUALITY = 95

KEY_STEPS = 24
"""Cameras from one key camera of a path to the next: a second of video."""


class Page:
    """One page: shows what the loop renders for its camera.

    Args:
      client: viser's handle of the page.
      loop: renders.
      cameras: those of the scene, at least one.
      output_dir: folder for files.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        loop: RenderLoop,
        cameras: tuple[Camera, ...],
        output_dir: Path,
    ):
        self._client, self._loop, self._cameras, self._folder = client, loop, cameras, output_dir
        self._frame: Frame | None = None
        self._times: collections.deque[float] = collections.deque(maxlen=100)
        self._status_at, self._status_side = -math.inf, 0
        self._keys: list[Camera] = []
        self._status = client.gui.add_markdown("starting", order=0)
        self._warnings = client.gui.add_markdown("", order=0.5, visible=False)
        self._add_camera_folder()
        self._tracing = Tracing(client, loop, lambda: self._frame)
        self._add_save_folder()
        loop.add_page(client.client_id, self._show)
        client.camera.on_update(self._on_camera)
        self._look()

    def close(self) -> None:
        """Ends what runs for this page."""
        self._loop.remove_page(self._client.client_id)
        self._tracing.end()

    def notify(self, title: str, body: str, color: str | None = None) -> None:
        self._client.add_notification(title, body, auto_close_seconds=8, color=color)

    def _add_camera_folder(self) -> None:
        gui = self._client.gui
        with gui.add_folder("Camera", order=3):
            fov = round(math.degrees(self._client.camera.fov), 1)
            self._fov = gui.add_slider("Field of view", 5.0, 120.0, 0.5, min(max(fov, 5.0), 120.0))
            self._fov.on_update(self._on_fov)
            names = tuple(f"camera {i}" for i in range(len(self._cameras)))
            camera = gui.add_dropdown("Of the file", names)
            go = gui.add_button("Go there")
            go.on_click(lambda event: self._go_to(self._cameras[names.index(camera.value)]))
            self._path = gui.add_markdown("")
            path = gui.add_button_group("Path", ("add key", "clear", "save"))
            path.on_click(lambda event: self._on_path(path.value))
            self._tell_path()

    def _add_save_folder(self) -> None:
        gui = self._client.gui
        with gui.add_folder("Save", order=5):
            save = gui.add_button_group("Save", ("image", "scene"))
            save.on_click(lambda event: self._on_save(save.value))

    async def _on_camera(self, camera: viser.CameraHandle) -> None:
        self._look()

    def _look(self) -> None:
        camera = self._client.camera
        if camera.image_height and camera.image_width:
            pose = camera_to_world(camera.wxyz, camera.position).astype(np.float32)
            view = View(pose, math.degrees(camera.fov), camera.aspect)
            self._loop.look(self._client.client_id, view)

    async def _on_fov(self, event: viser.GuiEvent) -> None:
        if event.client is not None:
            self._client.camera.fov = math.radians(self._fov.value)

    def _go_to(self, camera: Camera) -> None:
        handle = self._client.camera
        with self._client.atomic():
            handle.up_direction = camera.up
            handle.position = camera.position
            handle.look_at = camera.look_at
            handle.fov = math.radians(camera.fov)
        self._fov.value = min(max(camera.fov, self._fov.min), self._fov.max)

    def _camera(self) -> Camera:
        """The camera of the page as a scene file has it."""
        camera = self._client.camera
        distance = float(np.linalg.norm(camera.look_at - camera.position))
        pose = camera_to_world(camera.wxyz, camera.position)
        return scene_camera(pose, max(distance, 1e-3), math.degrees(camera.fov))

    def _show(self, frame: Frame) -> None:
        """Puts an image behind the lines of the page."""
        self._frame = frame
        start = time.perf_counter()
        self._client.scene.set_background_image(
            frame.picture, format="jpeg", jpeg_quality=JPEG_QUALITY
        )
        self._client.flush()
        now = time.perf_counter()
        self._times.append(now)
        side = len(frame.linear)
        if side != self._status_side or now - self._status_at > STATUS_SECONDS:
            self._status_at, self._status_side = now, side
            seconds = {**frame.seconds, "encoding": now - start}
            per_second = sum(now - t < 1 for t in self._times)
            self._status.content = status_text(side, seconds, per_second)
            self._warn(frame)

    def _warn(self, frame: Frame) -> None:
        """Says where what is seen is unlike what the weights saw."""
        scene = frame.view.of(self._loop.edited.scene)
        lines = scene_warnings(scene, self._loop.renderer.trained_on).values()
        text = "  \n".join(f"*{line}*" for line in lines)
        if text != self._warnings.content:
            self._warnings.content, self._warnings.visible = text, bool(text)

    def _tell_path(self) -> None:
        self._path.content = f"{len(self._keys)} key cameras, {KEY_STEPS} images between them"

    def _on_path(self, action: str) -> None:
        if action == "add key":
            self._keys.append(self._camera())
        elif action == "clear":
            self._keys.clear()
        elif len(self._keys) < 2:
            self.notify("No path", "Add two key cameras or more.", "yellow")
        else:
            cameras = camera_path(self._keys, KEY_STEPS)
            self._save(
                lambda name: save_edited(self._loop.edited, cameras, self._folder, name), "path"
            )
        self._tell_path()

    def _on_save(self, kind: str) -> None:
        if kind == "scene":
            cameras = [self._camera()]
            self._save(
                lambda name: save_edited(self._loop.edited, cameras, self._folder, name), kind
            )
        elif self._frame is not None:
            settings, linear = self._loop.settings, self._frame.linear
            look = settings.exposure, settings.tone_mapper
            self._save(lambda name: save_image(linear, *look, self._folder, name), kind)

    def _save(self, save: Callable[[str], list[Path]], kind: str) -> None:
        """Saves under the scene's name, and says where."""
        path = self._loop.edited.path
        name = path.parent.name if path.stem == "scene" else path.stem
        try:
            written = save(f"{name}_{kind}")
        except InputError as error:
            self.notify("Not saved", str(error), "red")
        else:
            self.notify("Saved", ", ".join(map(str, written)), "green")


def status_text(side: int, seconds: dict[str, float], per_second: int) -> str:
    """The time of an image and what it is made of, in Markdown."""
    total = 1000 * sum(seconds.values())
    parts = ", ".join(f"{name} {1000 * value:.1f}" for name, value in seconds.items())
    return (
        f"{side}x{side} pixels in **{total:.0f} ms**, {per_second} per second  \n"
        f"<small>{parts}</small>"
    )
