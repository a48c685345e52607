"""What is drawn over the image: the lines of triangles, and handles that change an object."""

import dataclasses
from collections.abc import Callable

import numpy as np
import viser

from rf_jax.scene.description import SceneObject
from rf_jax.scene.mesh import rotation_xyz
from rf_jax.viewer.state import (
    EditedScene,
    degrees_of,
    pivot_of,
    position_of,
    quaternion,
    with_pose,
)
from rf_jax.viewer.wireframe import edges

LINE_COLOR, CHOSEN_COLOR = (120, 170, 255), (255, 160, 40)
HANDLE_PIXELS = 90
"""Length of the arrows that move an object."""

Change = Callable[[SceneObject], SceneObject]


class Wireframe:
    """The edges of all triangles, object by object, on all pages."""

    def __init__(self, server: viser.ViserServer, edited: EditedScene, visible: bool):
        self._scene, self._edited = server.scene, edited
        self._visible, self._chosen = visible, None
        self._lines: dict[str, viser.LineSegmentsHandle] = {}
        self._draw()

    def set_visible(self, visible: bool) -> None:
        self._visible = visible
        self._draw()
        for lines in self._lines.values():
            lines.visible = visible

    def choose(self, name: str | None) -> None:
        """Draws one object in another colour."""
        self._chosen = name
        for each, lines in self._lines.items():
            lines.colors = np.array(self._color(each), np.uint8)

    def update(self, edited: EditedScene) -> None:
        """Draws the objects that have other triangles than before anew."""
        before, self._edited = self._edited, edited
        for name, part in edited.parts.items():
            if part is not before.parts[name] and name in self._lines:
                self._lines[name].points = edges(part.triangles)

    def _draw(self) -> None:
        """Draws all objects, the first time that they are visible."""
        if self._lines or not self._visible:
            return
        parts = {name: part.triangles for name, part in self._edited.parts.items()}
        for i, (name, triangles) in enumerate((parts or self._all()).items()):
            self._lines[name] = self._scene.add_line_segments(
                f"/wireframe/{i} {name.replace('/', '-')}",
                edges(triangles),
                self._color(name),
                thickness=1.2,
                thickness_units="screen",
            )

    def _all(self) -> dict[str, np.ndarray]:
        scene = self._edited.scene
        mask = getattr(scene, "valid_mask", None)
        triangles = np.asarray(scene.triangles)
        return {"scene": triangles if mask is None else triangles[np.asarray(mask)]}

    def _color(self, name: str) -> tuple[int, int, int]:
        return CHOSEN_COLOR if name == self._chosen else LINE_COLOR


class Handles:
    """Arrows, arcs and a ball that move, turn and scale the chosen object, on all pages.

    Args:
      server: the pages.
      edit: is given the object's name and how it changes; returns what it will be.
      edited: is told the name and what it will be after each change.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        edit: Callable[[str, Change], SceneObject],
        edited: Callable[[str, SceneObject], None],
    ):
        self._scene, self._edit, self._edited = server.scene, edit, edited
        self._name: str | None = None
        self._gizmo: viser.TransformControlsHandle | None = None
        self._ball: viser.IcosphereHandle | None = None
        self._held: tuple[np.ndarray, SceneObject] | None = None  # the ball, when it was taken

    def choose(self, scene: EditedScene, name: str | None) -> None:
        """Shows the handles at one object, or nowhere."""
        for handle in (self._gizmo, self._ball):
            if handle is not None:
                handle.remove()
        self._name, self._gizmo, self._ball = name, None, None
        if name is None:
            return
        self._mesh = scene.meshes[name]
        self._pivot = pivot_of(self._mesh)
        self._gizmo = self._scene.add_transform_controls(
            "/handles/move and turn", scale=HANDLE_PIXELS, fixed=True, depth_test=False
        )
        self._gizmo.on_update(self._on_gizmo)
        place = self._ball_place(scene.objects[name])
        radius = 0.07 * float(np.linalg.norm(place - self._position(scene.objects[name])))
        self._ball = self._scene.add_icosphere("/handles/scale", max(radius, 0.01), CHOSEN_COLOR)
        self._ball.on_drag("left")(self._on_ball)
        self.follow(name, scene.objects[name])

    def follow(self, name: str, described: SceneObject) -> None:
        """Moves the handles to where the object is, if they are at this one."""
        gizmo, ball = self._gizmo, self._ball  # a page may remove them meanwhile
        if name != self._name or gizmo is None or ball is None:
            return
        gizmo.position = self._position(described)
        gizmo.wxyz = quaternion(described.transform.rotation)
        ball.position = self._ball_place(described)

    async def _on_gizmo(self, event: viser.TransformControlsEvent) -> None:
        if event.phase == "start" or self._name is None:
            return
        position, rotation = np.array(event.target.position), degrees_of(event.target.wxyz)
        new = self._change(lambda old: with_pose(old.transform, self._pivot, position, rotation))
        self._ball.position = self._ball_place(new)

    async def _on_ball(self, event: viser.SceneNodeDragEvent) -> None:
        """Scales by how much farther from the pivot the ball is than when it was taken."""
        if event.phase == "start":
            self._held = np.array(event.start_position), self._change(lambda old: old.transform)
        if self._name is None or self._held is None:
            return
        start, before = self._held
        middle = self._position(before)
        factor = np.linalg.norm(np.array(event.end_position) - middle)
        factor /= max(np.linalg.norm(start - middle), 1e-6)
        scale = np.array(before.transform.scale) * max(factor, 0.01)
        new = self._change(lambda old: with_pose(old.transform, self._pivot, scale=scale))
        self._ball.position = self._ball_place(new)

    def _change(self, transform: Callable) -> SceneObject:
        new = self._edit(self._name, lambda old: dataclasses.replace(old, transform=transform(old)))
        self._edited(self._name, new)
        return new

    def _position(self, described: SceneObject) -> np.ndarray:
        return position_of(described.transform, self._pivot)

    def _ball_place(self, described: SceneObject) -> np.ndarray:
        """Beyond the corner of the object's box that is farthest along all axes of the world."""
        transform = described.transform
        corners = self._mesh.bounding_box.vertices @ rotation_xyz(np.array(transform.rotation)).T
        extent = np.ptp(corners * transform.scale, axis=0) / 2
        return self._position(described) + 1.15 * np.maximum(extent, 0.02)
