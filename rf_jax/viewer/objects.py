"""The tree of objects in the panel, with sliders for what they are made of and where they are."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import viser

from rf_jax.scene.description import SceneObject
from rf_jax.viewer.loop import RenderLoop
from rf_jax.viewer.overlay import Handles, Wireframe
from rf_jax.viewer.state import (
    EditedScene,
    Objects,
    join_color,
    pivot_of,
    position_of,
    split_color,
    with_pose,
)
from rf_jax.viewer.wireframe import first_hit

NO_OBJECT = "(none)"

MANY = 40
"""Of more objects than this, only those that were chosen have sliders: pages would load slowly."""

BRIGHTEST = 8000.0
"""Emitted radiance at the end of a slider, unless a light begins with more."""


@dataclasses.dataclass(frozen=True)
class _Controls:
    """The inputs of one object: what its material and its transform are set by."""

    strengths: dict[str, viser.GuiInputHandle]
    hues: dict[str, viser.GuiInputHandle]
    roughness: viser.GuiInputHandle
    vectors: dict[str, viser.GuiInputHandle]

    def show(self, described: SceneObject, pivot: np.ndarray) -> None:
        """Sets the inputs to the values of an object."""
        for field, handle in self.strengths.items():
            strength, hue = split_color(getattr(described.material, field))
            handle.value = min(strength, handle.max)
            if strength > 0:  # black has no hue of its own: keep what was picked
                self.hues[field].value = hue
        self.roughness.value = described.material.roughness
        self.show_transform(described, pivot)

    def show_transform(self, described: SceneObject, pivot: np.ndarray) -> None:
        for name, value in _vectors(described, pivot).items():
            self.vectors[name].value = value


def _vectors(described: SceneObject, pivot: np.ndarray) -> dict[str, tuple[float, ...]]:
    transform = described.transform
    position = tuple(round(float(x), 4) for x in position_of(transform, pivot))
    turned, scale = (tuple(round(x, 4) for x in v) for v in (transform.rotation, transform.scale))
    return {"position": position, "rotation": turned, "scale": scale}


class ObjectTree:
    """The folders of lights and surfaces, the wireframe, and the handles of the chosen object."""

    def __init__(self, server: viser.ViserServer, loop: RenderLoop, wireframe: bool):
        edited = loop.edited
        self._loop, self._gui = loop, server.gui
        self._first: Objects = edited.objects
        self._pivots = {name: pivot_of(mesh) for name, mesh in edited.meshes.items()}
        self._controls: dict[str, _Controls] = {}
        self._folders: dict[str, viser.GuiFolderHandle] = {}
        self._wireframe = Wireframe(server, edited, wireframe)
        self._handles = Handles(server, loop.edit, self._was_moved)
        with server.gui.add_folder("Objects", order=2):
            self._build(wireframe)
        server.scene.on_click()(self._on_click)

    def update(self, edited: EditedScene) -> None:
        """Draws what an edit has moved."""
        self._wireframe.update(edited)

    def reset(self, objects: Objects) -> None:
        """Shows other values than those that were set on a page."""
        if not self._first:
            return
        for name, controls in list(self._controls.items()):  # a page may add some meanwhile
            controls.show(objects[name], self._pivots[name])
            self._handles.follow(name, objects[name])

    def _build(self, wireframe: bool) -> None:
        gui = self._gui
        lines = gui.add_checkbox("Wireframe", wireframe)

        @lines.on_update
        async def _(event: viser.GuiEvent) -> None:
            self._wireframe.set_visible(lines.value)

        if not self._first:
            gui.add_markdown("This file names no objects, so it can be looked at only.")
            return
        self._chosen = gui.add_dropdown(
            "Handles at",
            (NO_OBJECT, *self._first),
            hint="A click on an object in the picture chooses it, too.",
        )
        self._chosen.on_update(self._on_choice)
        lights = [name for name, each in self._first.items() if any(each.material.emissive)]
        surfaces = [name for name in self._first if name not in lights]
        few = len(self._first) <= MANY
        if not few:
            gui.add_markdown(f"{len(self._first)} objects; choose those whose sliders you need.")
        for title, names in (("Lights", lights), ("Surfaces", surfaces)):
            if names:
                with gui.add_folder(title) as folder:
                    self._folders |= dict.fromkeys(names, folder)
                    for name in names if few else ():
                        self._add(name)
        gui.add_button("Reset all objects").on_click(self._on_reset)

    def _add(self, name: str) -> None:
        """Adds the folder of an object."""
        described, pivot, gui = self._first[name], self._pivots[name], self._gui
        material, strengths, hues, vectors = described.material, {}, {}, {}
        with gui.add_folder(name, expand_by_default=len(self._first) > MANY):
            for field, most in (("diffuse", 1.0), ("specular", 1.0), ("emissive", BRIGHTEST)):
                strength, hue = split_color(getattr(material, field))
                most = max(most, strength)
                label = "emission" if field == "emissive" else field
                strengths[field] = gui.add_slider(label, 0.0, most, most / 1000, strength)
                hues[field] = gui.add_rgb(f"{label} hue", hue)
            roughness = gui.add_slider("roughness", 0.0, 1.0, 0.001, material.roughness)
            for label, value in _vectors(described, pivot).items():
                step = 1.0 if label == "rotation" else 0.01
                vectors[label] = gui.add_vector3(label, value, step=step)
        controls = self._controls[name] = _Controls(strengths, hues, roughness, vectors)
        self._connect(name, controls)

    def _connect(self, name: str, controls: _Controls) -> None:
        """Lets every input change its own part of the object."""

        def listen(handle: viser.GuiInputHandle, change: Callable[[SceneObject], SceneObject]):
            async def on_update(event: viser.GuiEvent) -> None:
                if event.client is not None:  # by a person, not by `show`
                    self._handles.follow(name, self._loop.edit(name, change))

            handle.on_update(on_update)

        for field in controls.strengths:
            for handle in (controls.strengths[field], controls.hues[field]):
                listen(handle, lambda old, field=field: _with_color(old, controls, field))
        listen(
            controls.roughness, lambda old: _with_material(old, roughness=controls.roughness.value)
        )
        pivot = self._pivots[name]
        for label, handle in controls.vectors.items():
            listen(
                handle,
                lambda old, label=label, handle=handle: dataclasses.replace(
                    old, transform=with_pose(old.transform, pivot, **{label: handle.value})
                ),
            )

    def _was_moved(self, name: str, described: SceneObject) -> None:
        self._controls[name].show_transform(described, self._pivots[name])

    async def _on_choice(self, event: viser.GuiEvent) -> None:
        name = None if self._chosen.value == NO_OBJECT else self._chosen.value
        if name is not None and name not in self._controls:
            with self._folders[name]:
                self._add(name)
        self._wireframe.choose(name)
        self._handles.choose(self._loop.edited, name)

    async def _on_click(self, event: viser.SceneClickEvent) -> None:
        scene = self._loop.edited.scene
        if self._first:
            hit = first_hit(scene.triangles, event.ray_origin, event.ray_direction)
            name = NO_OBJECT if hit is None else scene.object_names[scene.objects[hit]]
            self._chosen.value = name

    async def _on_reset(self, event: viser.GuiEvent) -> None:
        self._loop.replace_objects(self._first)
        self.reset(self._first)


def _with_material(old: SceneObject, **changes: Any) -> SceneObject:
    return dataclasses.replace(old, material=dataclasses.replace(old.material, **changes))


def _with_color(old: SceneObject, controls: _Controls, field: str) -> SceneObject:
    """A colour that is set replaces random ones."""
    color = join_color(controls.strengths[field].value, controls.hues[field].value)
    if field == "diffuse":
        return _with_material(old, diffuse=color, rand_tri_diffuse_seed=None)
    return _with_material(old, **{field: color})
