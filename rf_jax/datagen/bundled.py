"""Writes the scenes of this package, which are rooms like those of `configs/data_rooms.py`.

%(prog)s
for scene in cornell_box blue_room turning_block; do      # makes their ground truth
  python -m rf_jax.datagen path_trace $scene --spp 4096
done
"""

from pathlib import Path

import numpy as np

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.datagen import primitives
from rf_jax.scene.description import (
    Camera,
    Material,
    SceneDescription,
    SceneObject,
    Transform,
    save_scene_description,
)
from rf_jax.scene.mesh import equilateral_triangle, save_obj
from rf_jax.trained_on import LIGHT_EDGE

ASSETS = Path(__file__).parent.parent / "assets" / "scenes"

FRAMES = 24
HALF_TURN = 180.0
"""Angle in degrees after which a turned block looks as before."""


def _slab(width: float, depth: float) -> primitives.Mesh:
    """A block of height 1 whose sides are cut in two: 32 triangles, as in the training data."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width / 2, depth / 2]
    part = np.arange(2)[:, None] / 2
    outline = corners[:, None] * (1 - part) + np.roll(corners, -1, axis=0)[:, None] * part
    return primitives.extrusion(outline.reshape(-1, 2), layers=1)


MESHES = {
    "plane.obj": primitives.plane_grid(2),
    "box.obj": _slab(1.0, 1.0),
    "slab.obj": _slab(0.95, 0.35),
    "light.obj": equilateral_triangle(LIGHT_EDGE),
}

Vector = tuple[float, float, float]

ZERO = (0.0, 0.0, 0.0)

ROOM = {
    "floor": Transform((0.0, 0.0, -0.5), ZERO, (1.0, 1.0, 1.0), normalize=False),
    "back_wall": Transform((0.0, 0.5, 0.0), (90.0, 0.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
    "left_wall": Transform((-0.5, 0.0, 0.0), (0.0, 90.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
    "right_wall": Transform((0.5, 0.0, 0.0), (0.0, -90.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
}
"""Sides of the cube [-0.5, 0.5]^3, which is open at the top and towards the camera at -y."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=ASSETS, help="folder for the scenes")
    write_scenes(parser.parse_args().output_dir)


def write_scenes(folder: Path) -> None:
    """Writes each scene, its `scene.json` or its frames and meshes, into a folder of its name."""
    _write(folder, [cornell_box()])
    _write(folder, [blue_room()])
    _write(folder, [turning_block(frame) for frame in range(FRAMES)])


def cornell_box() -> SceneDescription:
    """Two boxes in a room with a red and a green wall."""
    gray = (0.5, 0.5, 0.5)
    objects = {
        **_walls((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0.6, 0.06, 0.05), (0.1, 0.45, 0.08)),
        "tall_box": _block("box.obj", (-0.17, 0.14), 18.0, (0.28, 0.28, 0.6), gray),
        "short_box": _block("box.obj", (0.18, -0.15), -17.0, (0.3, 0.3, 0.3), gray),
        "light": _light((0.5, -0.8, 2.42), (18.0, 11.5, 0.0), 3700.0),
    }
    return _scene("cornell_box", objects, Camera((0.0, -2.0, 0.0), ZERO, (0.0, 0.0, 1.0), 38.0))


def blue_room() -> SceneDescription:
    """A slab and a cube between a blue and an orange wall, with light from the right."""
    objects = {
        **_walls((0.45, 0.42, 0.4), (0.3, 0.36, 0.45), (0.05, 0.2, 0.7), (0.85, 0.4, 0.06)),
        "slab": _block("slab.obj", (-0.22, 0.2), 25.0, (0.5, 0.5, 0.54), (0.7, 0.65, 0.5)),
        "cube": _block("box.obj", (0.17, -0.12), 10.0, (0.34, 0.34, 0.34), (0.1, 0.5, 0.35)),
        "light": _light((0.86, -1.15, 2.25), (27.0, 20.0, 0.0), 3500.0),
    }
    camera = Camera((-0.3, -1.9, 0.25), (0.0, 0.0, -0.05), (0.0, 0.0, 1.0), 38.0)
    return _scene("blue_room", objects, camera)


def turning_block(frame: int) -> SceneDescription:
    """A frame of a slab that turns about its vertical axis beside a small box that stands still."""
    turn = 20.0 + HALF_TURN * frame / FRAMES
    objects = {
        **_walls((0.45, 0.45, 0.45), (0.45, 0.42, 0.36), (0.7, 0.5, 0.1), (0.35, 0.15, 0.6)),
        "slab": _block("slab.obj", (0.13, 0.12), turn, (0.5, 0.5, 0.54), (0.7, 0.18, 0.1)),
        "box": _block("box.obj", (-0.24, -0.27), 25.0, (0.26, 0.26, 0.26), (0.15, 0.45, 0.65)),
        "light": _light((-0.9, -0.6, 2.4), (14.0, -20.0, 0.0), 3600.0),
    }
    camera = Camera((0.2, -1.95, 0.25), (0.0, 0.0, -0.05), (0.0, 0.0, 1.0), 38.0)
    return _scene("turning_block", objects, camera)


def _scene(name: str, objects: dict[str, SceneObject], camera: Camera) -> SceneDescription:
    return SceneDescription(name, "1.0", objects, (camera,))


def _walls(floor: Vector, back: Vector, left: Vector, right: Vector) -> dict[str, SceneObject]:
    """The sides of the room in these diffuse colours."""
    return {
        name: SceneObject("plane.obj", transform, _diffuse(color))
        for (name, transform), color in zip(ROOM.items(), (floor, back, left, right), strict=True)
    }


def _block(
    mesh: str,
    position: tuple[float, float],
    turn: float,
    scale: Vector,
    color: Vector,
) -> SceneObject:
    """A mesh of height 1 that stands on the floor at x, y.

    It is turned about its vertical axis by degrees before it is scaled. So its x and y scale must
    be equal, or else scaling would shear it.
    """
    translation = (*position, scale[2] / 2 - 0.5)
    placement = Transform(translation, (0.0, 0.0, turn), scale, normalize=False)
    return SceneObject(mesh, placement, _diffuse(color))


def _diffuse(color: Vector) -> Material:
    return Material(color, ZERO, 1.0, ZERO, smooth_shading=False)


def _light(position: Vector, rotation: Vector, radiance: float) -> SceneObject:
    """One small emitting triangle outside the room, which faces down before it is rotated."""
    placement = Transform(position, rotation, (2.3, 2.3, 2.3), normalize=False)
    emission = Material((1.0,) * 3, ZERO, 1.0, (radiance,) * 3, smooth_shading=False)
    return SceneObject("light.obj", placement, emission)


def _write(folder: Path, frames: list[SceneDescription]) -> None:
    target = folder / frames[0].scene_name
    for index, description in enumerate(frames):
        name = "scene.json" if len(frames) == 1 else f"frame_{index:02d}.json"
        save_scene_description(description, target / name)
    for name in {scene_object.mesh_path for scene_object in frames[0].objects.values()}:
        save_obj(target / name, *MESHES[name])


if __name__ == "__main__":
    run_command_line(main)
