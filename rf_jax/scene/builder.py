"""Scenes made in Python, mesh by mesh."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import trimesh
from numpy.typing import ArrayLike

from rf_jax import geometry, schema
from rf_jax.errors import InputError, prefix_errors
from rf_jax.scene.description import Camera, FaceCount, Material, Transform, Vector
from rf_jax.scene.mesh import as_mesh, facing_triangle
from rf_jax.scene.triangles import Triangles, assemble, place_mesh, read_mesh
from rf_jax.structs import Scene
from rf_jax.trained_on import LIGHT_EDGE

_GREY = {"diffuse": 0.5, "specular": 0, "roughness": 1, "emissive": 0, "smooth_shading": False}
_IN_PLACE = {"translation": 0, "rotation": 0, "scale": 1, "normalize": False}

T = TypeVar("T")


class SceneBuilder:
    """Collects meshes, lights and cameras, and builds a scene of them.

    Every method changes the builder and returns it, so that calls can be chained:

        scene = (
            SceneBuilder()
            .add_mesh("bunny.obj", material={"diffuse": (0.8, 0.3, 0.2)}, name="bunny")
            .add_light((0.5, -0.8, 2.4), emissive=4000)
            .add_camera((0, -2, 0))
            .build()
        )

    z points up. Values are checked like those of a scene file, which the same code places. Where
    three numbers are expected, one number stands for three equal ones.
    """

    def __init__(self):
        self._parts: dict[str, Triangles] = {}
        self._cameras: list[Camera] = []

    def add_mesh(
        self,
        mesh: str | Path | trimesh.Trimesh | ArrayLike | tuple[ArrayLike, ArrayLike],
        material: Material | Mapping[str, Any] | None = None,
        transform: Transform | Mapping[str, Any] | None = None,
        name: str | None = None,
        remesh_faces: int | None = None,
    ) -> "SceneBuilder":
        """Adds an object.

        Args:
          mesh: an OBJ, PLY or GLB file, or what `rf_jax.scene.mesh.as_mesh` accepts.
          material: fields of `rf_jax.scene.description.Material`; what is left out is a matt grey
            of 0.5 that emits nothing.
          transform: fields of `rf_jax.scene.description.Transform`; what is left out, `normalize`
            included, leaves the mesh as it is.
          name: name of the object; None takes that of the file, or "mesh", with a number if needed.
          remesh_faces: about how many faces the mesh is remeshed to; None for not at all.

        Raises:
          InputError: names the object, what was expected and what was found.
        """
        is_file = isinstance(mesh, str | Path)
        name = self._new_name(name, Path(mesh).stem if is_file else "mesh")
        with prefix_errors(f"objects.{name}"):
            self._parts[name] = place_mesh(
                read_mesh(mesh) if is_file else as_mesh(mesh),
                _completed(Transform, transform, _IN_PLACE, "transform"),
                _completed(Material, material, _GREY, "material"),
                schema.parse_python(FaceCount | None, remesh_faces, "remesh_faces"),
                mesh if is_file else "mesh",
            )
        return self

    def add_light(
        self,
        position: ArrayLike,
        emissive: ArrayLike = 4000.0,
        look_at: ArrayLike = (0.0, 0.0, 0.0),
        scale: float = 2.3,
        name: str | None = None,
    ) -> "SceneBuilder":
        """Adds a light like those of the published scenes: one emitting equilateral triangle.

        Args:
          position: [3], the middle of the triangle.
          emissive: emitted radiance, linear RGB or one number for white.
          look_at: [3], a point that the triangle faces.
          scale: size of the triangle in units of 0.0707, the length of its edges at scale 1.
          name: name of the object; None takes "light", with a number if needed.

        Raises:
          InputError: as `add_mesh`.
        """
        name = self._new_name(name, "light")
        with prefix_errors(f"objects.{name}"):
            middle = np.array(schema.parse_python(Vector, position, "position"))
            target = np.array(schema.parse_python(Vector, look_at, "look_at"))
            scale = schema.parse_python(float, scale, "scale")
            corners = facing_triangle(middle, target, LIGHT_EDGE * scale)
        material = {"diffuse": 1, "emissive": emissive}
        return self.add_mesh(corners[None], material=material, name=name)

    def add_camera(
        self,
        position: ArrayLike,
        look_at: ArrayLike = (0.0, 0.0, 0.0),
        up: ArrayLike = (0.0, 0.0, 1.0),
        fov: float = 40.0,
    ) -> "SceneBuilder":
        """Adds a view.

        Args:
          position, look_at: [3], where the camera and the middle of its image are.
          up: [3] direction that points upwards in the image.
          fov: full field of view of the square image in degrees.

        Raises:
          InputError: as `add_mesh`.
        """
        given = {"position": position, "look_at": look_at, "up": up, "fov": fov}
        where = f"cameras[{len(self._cameras)}]"
        camera = _completed(Camera, given, {}, where)
        with prefix_errors(where):
            geometry.look_at(camera.position, camera.look_at, camera.up)
        self._cameras.append(camera)
        return self

    def build(self) -> Scene:
        """The scene of all that was added, as `rf_jax.load_scene` returns one.

        Raises:
          InputError: there is no object or no camera, or values are beyond float32.
        """
        if not self._parts:
            raise InputError("objects: expected at least one, found none; add_mesh adds one")
        if not self._cameras:
            raise InputError("cameras: expected at least one, found none; add_camera adds one")
        return assemble(self._parts, self._cameras)

    def _new_name(self, name: str | None, default: str) -> str:
        if name is None:
            numbered = (f"{default}_{i}" for i in range(2, len(self._parts) + 3))
            return next(n for n in (default, *numbered) if n not in self._parts)
        if not isinstance(name, str) or name in self._parts:
            raise InputError(f"name: expected a string that no other object has, found {name!r}")
        return name


def _completed(
    kind: type[T], given: T | Mapping[str, Any] | None, defaults: Mapping[str, Any], where: str
) -> T:
    """A dataclass of the given fields, checked, and of defaults for the others."""
    given = schema.to_dict(given) if isinstance(given, kind) else given or {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"{where}: expected a {kind.__name__} or a dictionary of its fields, "
            f"found {type(given).__name__}"
        )
    hints = schema.flat_hints(kind)
    if unknown := given.keys() - hints.keys():
        raise schema.unknown_key(min(unknown, key=str), hints, where)
    values = {**defaults, **given}
    return kind(
        **{k: schema.parse_python(hints[k], value, f"{where}.{k}") for k, value in values.items()}
    )
