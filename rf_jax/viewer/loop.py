"""The thread that renders for all pages: always the newest camera, scene and settings of each.

Changes only replace what is wanted. Whatever was wanted before and has not begun is never rendered,
so a slow network is late by one image at most.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rf_jax.errors import InputError
from rf_jax.rendering.generations import AnyScene
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.triangles import cameras_to_world
from rf_jax.structs import SceneEncoding
from rf_jax.viewer.picture import canvas_picture, displayed
from rf_jax.viewer.state import EditedScene, Objects, SceneObject

STILL_SECONDS = 0.25
"""What has not changed for so long is still, and is shown at the full resolution."""

SECONDS_BETWEEN = 1 / 60
"""Least time between two images of one page; no screen needs more."""

SMOOTH_SECONDS = 1 / 20
"""Longest time of an image that moves, by which `moving_resolution` chooses."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images look, for all pages.

    Attributes:
      resolution: side in pixels of images that are still.
      moving: the side while something moves; None chooses it by the time that images take.
      attention: as in `Renderer`; None takes what the weights name.
      tone_mapper: one of `rf_jax.images.tone_map.TONE_MAPPERS`.
      exposure: in stops.
    """

    resolution: int
    moving: int | None = None
    attention: str | None = None
    tone_mapper: str = "none"
    exposure: float = 0.0


@dataclasses.dataclass(frozen=True)
class View:
    """What a page looks at: the camera [4, 4], its field of view, and the shape of the canvas."""

    camera_to_world: np.ndarray
    fov_degrees: float
    aspect: float

    def of(self, scene: AnyScene) -> AnyScene:
        """An unbatched scene with this view only."""
        fov = np.array([self.fov_degrees], np.float32)
        pose = np.asarray(self.camera_to_world, np.float32)[None]
        return scene.replace(camera_to_world=pose, fov_degrees=fov)


@dataclasses.dataclass(frozen=True)
class Frame:
    """An image for a page.

    Attributes:
      linear: [H, H, 3] radiance.
      picture: uint8 [rows, columns, 3], for the whole canvas.
      view: where it was seen from.
      seconds: time by step: "geometry" and "stage one" (0 unless the scene changed), "stage two",
        "display".
    """

    linear: np.ndarray
    picture: np.ndarray
    view: View
    seconds: Mapping[str, float]


@dataclasses.dataclass
class _Page:
    """What a page wants, and what it has."""

    show: Callable[[Frame], None]
    view: View | None = None
    version: int = 0  # of the view
    changed_at: float = -math.inf
    shown: tuple[int, ...] | None = None  # see `RenderLoop._wanted`
    shown_at: float = -math.inf
    rendered: tuple[int, ...] | None = None  # what `linear` is an image of
    linear: np.ndarray | None = None


def moving_resolution(full: int, multiple: int, seconds: float) -> int:
    """The side of images while something moves.

    Args:
      full: side of images that are still.
      multiple: what sides are multiples of.
      seconds: what one of these takes.

    Returns:
      the largest multiple that should take `SMOOTH_SECONDS` at most if the time is proportional to
      the number of pixels, but an eighth of `full` at least.
    """
    side = full * min(1.0, math.sqrt(SMOOTH_SECONDS / max(seconds, 1e-9)))
    return max(multiple, int(max(side, full / 8)) // multiple * multiple)


class RenderLoop:
    """Renders one scene for several pages. Threads may call all methods but `step` and `run`.

    Args:
      make_renderer: makes a renderer for the name of an attention function (or None).
      edited: the scene.
      settings: how images look at first.
      on_scene: is given the scene whenever an edit has been placed or refused.
      on_error: is given the message of what was refused.
      clock: returns seconds.

    Attributes:
      renderer, edited, settings: what the newest image was made of.

    Raises:
      InputError: the renderer cannot be made, or cannot render the scene.
    """

    def __init__(
        self,
        make_renderer: Callable[[str | None], Renderer],
        edited: EditedScene,
        settings: Settings,
        on_scene: Callable[[EditedScene], None] = lambda edited: None,
        on_error: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._make_renderer, self._clock = make_renderer, clock
        self._on_scene, self._on_error = on_scene, on_error
        self._changed = threading.Condition()
        self._closed = False
        self._pages: dict[int, _Page] = {}
        self._objects: Objects = edited.objects
        self._objects_version, self._objects_at = 0, -math.inf
        self._settings, self._settings_version = settings, 0
        self._encoding_version = 0
        self.edited, self.settings = edited, settings
        self.renderer = make_renderer(settings.attention)
        self._prepare(self.renderer, settings)

    def add_page(self, page: int, show: Callable[[Frame], None]) -> None:
        """Begins to render for a page, when `look` has said what it looks at."""
        with self._changed:
            self._pages[page] = _Page(show)

    def remove_page(self, page: int) -> None:
        """Ends to render for a page."""
        with self._changed:
            self._pages.pop(page, None)

    def look(self, page: int, view: View) -> None:
        """Sets what a page looks at."""
        with self._changed:
            if state := self._pages.get(page):
                state.view, state.version = view, state.version + 1
                state.changed_at = self._clock()
                self._changed.notify()

    def edit(self, name: str, change: Callable[[SceneObject], SceneObject]) -> SceneObject:
        """Changes an object, and returns what it will be."""
        with self._changed:
            new = change(self._objects[name])
            self.replace_objects({**self._objects, name: new})
        return new

    def replace_objects(self, objects: Objects) -> None:
        """Sets the transforms and materials of all objects."""
        with self._changed:
            self._objects, self._objects_at = objects, self._clock()
            self._objects_version += 1
            self._changed.notify()

    def change_settings(self, **changes: Any) -> None:
        """Sets fields of `Settings`."""
        with self._changed:
            self._settings = dataclasses.replace(self._settings, **changes)
            self._settings_version += 1
            self._changed.notify()

    def close(self) -> None:
        """Ends `run`."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def run(self) -> None:
        """Renders until `close`."""
        while not self._closed:
            if not self.step():
                with self._changed:
                    wait, _ = self._next()
                    if wait > 0 and not self._closed:
                        self._changed.wait(None if math.isinf(wait) else wait)

    def step(self) -> bool:
        """Renders what has been wanted for longest; returns whether there was anything."""
        with self._changed:
            wait, page = self._next()
            if wait > 0:
                return False
            objects, settings, view = self._objects, self._settings, page.view
            wanted = self._wanted(page)
        try:
            self._serve(page, view, objects, settings, wanted[0])
        except (InputError, MemoryError, RuntimeError) as error:
            self._refuse(error, objects, settings)
        page.shown, page.shown_at = wanted, self._clock()
        return True

    def _wanted(self, page: _Page) -> tuple[int, ...]:
        """The versions of all that the newest image of a page shows, and its side."""
        side = self._side(page, self._settings)
        return page.version, self._objects_version, self._settings_version, side

    def _side(self, page: _Page, settings: Settings) -> int:
        still = self._clock() >= self._still_at(page)
        return settings.resolution if still else min(self._moving, settings.resolution)

    def _still_at(self, page: _Page) -> float:
        return max(page.changed_at, self._objects_at) + STILL_SECONDS

    def _next(self) -> tuple[float, _Page | None]:
        """In how many seconds which page is due: the one that waits for longest."""
        now, soonest, first = self._clock(), math.inf, None
        for page in self._pages.values():
            if page.view is None:
                continue
            due = page.shown_at + SECONDS_BETWEEN
            if page.shown == self._wanted(page):
                due = max(due, self._still_at(page)) if now < self._still_at(page) else math.inf
            if due - now < soonest:
                soonest, first = due - now, page
        return soonest, first

    def _serve(
        self, page: _Page, view: View, objects: Objects, settings: Settings, version: int
    ) -> None:
        seconds = self._take_over(objects, settings)
        start = self._clock()
        # Decided anew: if something moves since stage one, the full resolution is not worth it
        rendered = version, self._encoding_version, self._side(page, settings)
        if page.rendered != rendered:
            camera, fov = view.camera_to_world[None], np.array([view.fov_degrees])
            (images,) = self.renderer.render_views(self._encoding, camera, fov, rendered[-1])
            page.linear, page.rendered = images[0], rendered
        seconds["stage two"] = self._clock() - start
        start = self._clock()
        display = displayed(page.linear, settings.exposure, settings.tone_mapper)
        picture = canvas_picture(display, view.aspect)
        seconds["display"] = self._clock() - start
        page.show(Frame(page.linear, picture, view, seconds))

    def _take_over(self, objects: Objects, settings: Settings) -> dict[str, float]:
        """Uses other objects and settings from now on; returns the seconds of its steps."""
        start = self._clock()
        edited = self.edited.with_objects(objects)
        placed_at = self._clock()
        if edited is not self.edited:
            self._encoding = self.renderer.encode_scene(edited.scene)
            self._encoding_version += 1
            self.edited = edited
            self._on_scene(edited)
        seconds = {"geometry": placed_at - start, "stage one": self._clock() - placed_at}
        if _network(settings) != _network(self.settings):
            same = settings.attention == self.settings.attention
            self._prepare(
                self.renderer if same else self._make_renderer(settings.attention), settings
            )
        self.settings = settings
        return seconds

    def _prepare(self, renderer: Renderer, settings: Settings) -> None:
        """Compiles all that images with other settings need, and begins to use the renderer."""
        full = renderer.check_resolution(settings.resolution)
        encoding = renderer.encode_scene(self.edited.scene)
        moving = settings.moving
        if moving is None:
            seconds = self._seconds(renderer, encoding, full)
            moving = moving_resolution(full, renderer.config.resolution_multiple, seconds)
        for side in {full, renderer.check_resolution(moving)}:
            self._seconds(renderer, encoding, side)
        self.renderer, self._encoding, self._moving = renderer, encoding, moving
        self._encoding_version += 1

    def _seconds(self, renderer: Renderer, encoding: SceneEncoding, side: int) -> float:
        """The time that one image takes, after its program has been compiled."""
        camera = self.edited.cameras[0]
        pose, fov = cameras_to_world([camera]), np.array([camera.fov], np.float32)
        for _ in range(2):
            start = self._clock()
            list(renderer.render_views(encoding, pose, fov, side))
        return self._clock() - start

    def _refuse(self, error: Exception, objects: Objects, settings: Settings) -> None:
        """Goes back to what could be rendered, unless something else is wanted already."""
        if isinstance(error, InputError):
            message = str(error)
        elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            message = "out of memory: choose a lower resolution"
        else:
            raise error
        with self._changed:
            if self._objects is objects and objects is not self.edited.objects:
                self._objects = self.edited.objects
                self._objects_version += 1
            if self._settings is settings:
                self._settings = self.settings
        self._on_scene(self.edited)
        self._on_error(message)


def _network(settings: Settings) -> tuple:
    """The settings that programs depend on."""
    return settings.resolution, settings.moving, settings.attention
