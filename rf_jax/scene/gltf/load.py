"""Loads a glTF 2.0 file, as Blender and others write it, as a scene."""

import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from rf_jax.errors import InputError, listed, prefix_errors
from rf_jax.scene.description import Camera
from rf_jax.scene.gltf import lights
from rf_jax.scene.gltf.file import GltfFile, item
from rf_jax.scene.gltf.materials import bake, open_surface
from rf_jax.scene.gltf.nodes import PlacedNode, placed_nodes, rigid
from rf_jax.scene.gltf.primitives import FAN, TRIANGLES, Corners, place, read_corners, skinned
from rf_jax.scene.gltf.report import ImportReport, dropped_parts
from rf_jax.scene.gltf.schema import (
    Material,
    MaterialExtensions,
    PbrMetallicRoughness,
    Specular,
)
from rf_jax.scene.gltf.textures import Textures
from rf_jax.scene.mesh import facing_triangle
from rf_jax.scene.triangles import (
    Triangles,
    assemble,
    check_count,
    drop_undefined_normals,
    scene_camera,
)
from rf_jax.structs import DIFFUSE, EMISSION, FLAT_NORMAL, NORMAL, NUM_CHANNELS, ROUGHNESS, Scene

_log = logging.getLogger(__name__)

CAMERA_DISTANCE = 3.5
"""How far the camera of a scene without one is from its middle, in half sides of its bounding
cube. Its field of view shows the whole scene, and is from 33 to 60 degrees."""

CAMERA_DIRECTION = (0.0, -math.cos(math.radians(20)), math.sin(math.radians(20)))
LIGHT_DIRECTION = (-0.4, -0.5, 0.77)
"""Where a camera and a light stand that a file lacks: both in front of it, which is -y in scenes
and +z in glTF."""

EMISSION_OF_LIGHT = 3750.0
"""Radiance of that light: the middle of what the published networks learned."""

MAX_LIGHTS = 1000
"""Most punctual lights of a scene; each is compared with all triangles."""

NOISE = 1e-3
"""Emission below this share of the file's strongest counts as none: the noise of JPEG images in
black, which would make lights of whole meshes."""

_MATT_GREY = Material(
    pbrMetallicRoughness=PbrMetallicRoughness((0.5, 0.5, 0.5, 1.0), metallicFactor=0.0),
    extensions=MaterialExtensions(KHR_materials_specular=Specular(specularFactor=0.0)),
)
"""Of primitives without a material, as in `rf_jax.SceneBuilder`; by the specification they would be
a white metal."""


class _Piece(NamedTuple):
    """The triangles of a primitive with their materials [F, 13], and the material's name."""

    corners: Corners
    texture: np.ndarray
    material: str


class _Objects(dict[str, Triangles]):
    """The triangles of objects, by distinct names."""

    def __init__(self):
        super().__init__()
        self._numbers: dict[str, int] = {}

    def new_name(self, name: str) -> str:
        """The name, with a number if it is taken."""
        number = self._numbers.get(name, 1)
        while (new := name if number == 1 else f"{name}_{number}") in self:
            number += 1
        self._numbers[name] = number  # all below are taken: a thousand equal names stay cheap
        return new


def load_gltf(path: str | Path) -> tuple[Scene, ImportReport]:
    """Loads the default scene of a `.glb` or `.gltf` file.

    Every primitive of every node with a mesh is an object, which bears the name of its node, and
    after a slash that of its material if the mesh has several. y points up in the file and z in the
    scene: (x, y, z) becomes (x, -z, y). Lengths and radiances stay as they are. The rows of the
    report are logged as information.

    Returns:
      the scene, as `rf_jax.load_scene` returns one, and what became of the file's parts.

    Raises:
      InputError: the file is damaged, compressed, or has no triangles; names the part.
    """
    file = GltfFile(path)
    with prefix_errors(str(path)):
        nodes = placed_nodes(file.document)
        parts = _objects(file, nodes)
        if not parts:
            raise InputError("expected a mesh with triangles in the default scene, found none")
        mapped = _mesh_rows(file, parts)
        surfaces = np.concatenate([part.triangles for part in parts.values()])
        low, high = surfaces.min(axis=(0, 1)), surfaces.max(axis=(0, 1))
        middle, half_side = (low + high) / 2, (high - low).max() / 2
        mapped += _add_lights(file, nodes, parts, surfaces, (middle, half_side))
        cameras, row = _cameras(file, nodes, low, high)
        scene = assemble(parts, cameras)
    report = ImportReport((*mapped, row), tuple(dropped_parts(file.document)))
    for what, became in report.rows():
        _log.info("%s: %s -> %s", file.path.name, what, became)
    return scene, report


def _objects(file: GltfFile, nodes: list[PlacedNode]) -> _Objects:
    """The placed triangles of all primitives, by distinct names."""
    document, textures = file.document, Textures(file)
    pieces = functools.cache(lambda index: list(_pieces(file, textures, index)))
    worlds = {index: to_world for index, _, to_world in nodes}
    parts = _Objects()
    count = 0
    for index, node, to_world in nodes:
        if node.mesh is None:
            continue
        mesh = item(document.meshes, node.mesh, f"nodes[{index}].mesh")
        name = node.name or mesh.name or f"mesh_{node.mesh}"
        for piece in pieces(node.mesh):
            count += len(piece.texture)
            check_count(count)
            placement = to_world
            if node.skin is not None and piece.corners.joints is not None:
                skin = item(document.skins, node.skin, f"nodes[{index}].skin")
                placement = skinned(file, skin, piece.corners, worlds, f"skins[{node.skin}]")
            placed = place(piece.corners, placement)
            several = len(pieces(node.mesh)) > 1
            full_name = parts.new_name(f"{name}/{piece.material}" if several else name)
            if np.isnan(placed[1]).any(axis=(1, 2)).all():
                _log.warning("%s: left out, all its triangles are degenerate", full_name)
                continue
            parts[full_name] = Triangles(
                *drop_undefined_normals(*placed, piece.texture, f"{file.path}: {full_name}")
            )
    strongest = max((part.texture[:, EMISSION].max() for part in parts.values()), default=0)
    for part in parts.values():
        emission = part.texture[:, EMISSION]
        emission[emission.max(axis=1) < NOISE * strongest] = 0
    return parts


def _pieces(file: GltfFile, textures: Textures, mesh: int) -> Iterator[_Piece]:
    """The primitives of a mesh that have triangles."""
    count = 0
    for number, primitive in enumerate(file.document.meshes[mesh].primitives):
        where = f"meshes[{mesh}].primitives[{number}]"
        if not TRIANGLES <= primitive.mode <= FAN:
            continue
        corners = read_corners(file, primitive, where)
        if not len(corners.positions):
            continue
        count += len(corners.positions)
        check_count(count)  # before they fill the memory: they may share one array
        material, name = _MATT_GREY, f"{number}"
        if primitive.material is not None:
            material = item(file.document.materials, primitive.material, f"{where}.material")
            name = material.name or f"material_{primitive.material}"
        surface = open_surface(material, textures, f"{where}.material")
        yield _Piece(corners, bake(surface, corners), name)


def _add_lights(file, nodes, parts, surfaces, cube) -> list[tuple[str, str]]:
    """Adds a triangle for every punctual light, or one light to a scene without any.

    Args:
      file, nodes: the file and its placed nodes.
      parts: the objects, to which the lights are added.
      surfaces: [F, 3, 3] the triangles of all meshes.
      cube: middle and half side of the bounding cube.

    Returns:
      rows of the report.
    """
    punctual = file.document.extensions.KHR_lights_punctual.lights
    shining = [node for node in nodes if node.node.extensions.KHR_lights_punctual is not None]
    if len(shining) > MAX_LIGHTS:
        raise InputError(f"expected at most {MAX_LIGHTS} lights, found {len(shining)}")
    blender = file.document.asset.generator.startswith("Khronos glTF Blender I/O")
    unit, rows = lights.WATT if blender else 1.0, []
    centres = surfaces.mean(axis=1)
    radii = np.linalg.norm(surfaces - centres[:, None], axis=-1).max(axis=1)
    glowing = [name for name, part in parts.items() if part.texture[:, EMISSION].any()]
    if glowing:
        rows.append((f"{len(glowing)} objects that emit", "lights, which emit to both sides"))
    for index, node, to_world in shining:
        reference = node.extensions.KHR_lights_punctual
        light = item(punctual, reference.light, f"nodes[{index}].light")
        clearance = _clearance(to_world[:3, 3], surfaces, centres, radii)
        with prefix_errors(f"nodes[{index}]: light"):
            corners, radiance = lights.emitter(light, to_world, *cube, clearance, unit)
        name = parts.new_name(node.name or light.name or f"light_{reference.light}")
        if not radiance.any():
            rows.append((f"{light.type} light {name}", "dropped: it is dark"))
            continue
        became = f"a triangle of radiance {radiance.max():.4g}, {lights.KEEPS[light.type]}"
        became += f" ({lights.WATT:g} lm = 1 W)" * blender
        rows.append((f"{light.type} light {name}", became))
        parts[name] = _light_triangles(corners, radiance)
    if not rows:
        middle, half_side = cube
        position = middle + np.array(LIGHT_DIRECTION) * lights.DISTANCE * half_side
        corners = facing_triangle(position, middle, lights.EDGE * half_side)
        parts[parts.new_name("light")] = _light_triangles(corners, np.full(3, EMISSION_OF_LIGHT))
        rows.append(("no light", "a white one, above and in front, like the published ones"))
    return rows


def _clearance(
    point: np.ndarray, surfaces: np.ndarray, centres: np.ndarray, radii: np.ndarray
) -> float:
    """The distance from a point [3] to the nearest of triangles [F, 3, 3].

    The centre of a triangle is a point of it. So only those are measured whose bounding spheres
    (centres [F, 3], radii [F]) are not farther than the nearest centre.
    """
    distances = np.linalg.norm(centres - point, axis=1)
    near = surfaces[distances - radii <= distances.min()]
    points = np.broadcast_to(point, (len(near), 3))
    nearest = trimesh.triangles.closest_point(near, points)
    return float(np.linalg.norm(nearest - points, axis=1).min())


def _light_triangles(corners: np.ndarray, radiance: np.ndarray) -> Triangles:
    """A white triangle that emits, as in published scenes."""
    texture = np.zeros((1, NUM_CHANNELS))
    texture[:, DIFFUSE], texture[:, ROUGHNESS] = 1, 1
    texture[:, NORMAL], texture[:, EMISSION] = FLAT_NORMAL, radiance
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal /= np.linalg.norm(normal)
    return Triangles(corners[None], np.tile(normal, (1, 3, 1)), texture)


def _cameras(file, nodes, low, high) -> tuple[list[Camera], tuple[str, str]]:
    """The views, and a row of the report; `low` and `high` are the scene's bounds."""
    middle, half_side = (low + high) / 2, (high - low).max() / 2
    cameras, names = [], []
    for index, node, to_world in nodes:
        if node.camera is None:
            continue
        camera = item(file.document.cameras, node.camera, f"nodes[{index}].camera")
        if camera.perspective is None:
            continue
        if (pose := rigid(to_world)) is None:
            raise InputError(f"nodes[{index}]: a camera without a direction: it has no scale")
        fov = math.degrees(camera.perspective.yfov)
        names.append(f"{len(cameras)} {node.name or camera.name or ''}".rstrip())
        cameras.append(scene_camera(pose, half_side, fov))
    if cameras:
        became = f"views {listed(names)}; square, as high as the camera's image"
        return cameras, (f"{len(cameras)} cameras", became)
    position = middle + np.array(CAMERA_DIRECTION) * CAMERA_DISTANCE * half_side
    radius = np.linalg.norm(high - low) / 2
    fov = 2 * math.degrees(math.asin(radius / (CAMERA_DISTANCE * half_side)))
    cameras = [Camera(tuple(position), tuple(middle), (0.0, 0.0, 1.0), fov)]
    return cameras, ("no camera", "one in front that sees everything")


def _mesh_rows(file: GltfFile, parts: dict[str, Triangles]) -> list[tuple[str, str]]:
    document = file.document
    count = sum(len(part.triangles) for part in parts.values())
    rows = [(f"{len(document.meshes)} meshes", f"{len(parts)} objects, {count:,} triangles")]
    if document.materials:
        rows.append(
            (f"{len(document.materials)} materials", "diffuse and specular reflectance, roughness")
        )
    primitives = [primitive for mesh in document.meshes for primitive in mesh.primitives]
    if bare := sum(primitive.material is None for primitive in primitives):
        rows.append((f"{bare} primitives without a material", "a matt grey of 0.5"))
    if document.textures:
        rows.append((f"{len(document.textures)} textures", "means over each triangle"))
    return rows
