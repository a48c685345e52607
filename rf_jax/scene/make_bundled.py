"""Writes the scenes that come with the package: `python -m rf_jax.scene.make_bundled`."""

import json
from pathlib import Path

import numpy as np

from rf_jax.scene import primitives
from rf_jax.scene.schema import Camera, Material, SceneDescription, SceneObject, Transform

ASSETS = Path(__file__).parent.parent / "assets" / "scenes"

MESHES = {
    "plane.obj": primitives.plane_grid(8),
    "box.obj": primitives.box(6),
    "sphere.obj": primitives.icosphere(2),
    "knot.obj": primitives.torus_knot(2, 3, tube_radius=0.07, steps=44, sides=13),
    "light.obj": primitives.equilateral_triangle(0.0707),
}

ZERO = (0.0, 0.0, 0.0)

# The room is the cube [-0.5, 0.5]^3, open at the top and towards the camera at -y
ROOM = {
    "floor": Transform((0.0, 0.0, -0.5), ZERO, (1.0, 1.0, 1.0), normalize=False),
    "back_wall": Transform((0.0, 0.5, 0.0), (90.0, 0.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
    "left_wall": Transform((-0.5, 0.0, 0.0), (0.0, 90.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
    "right_wall": Transform((0.5, 0.0, 0.0), (0.0, -90.0, 0.0), (1.0, 1.0, 1.0), normalize=False),
}


def main(folder: Path = ASSETS) -> None:
    """Writes `scene.json` and its meshes for each scene into a folder of its name."""
    for description in (cornell_box(), spheres(), knot()):
        target = folder / description.scene_name
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(description.to_dict(), indent=2)
        (target / "scene.json").write_text(text + "\n")
        for name in {scene_object.mesh_path for scene_object in description.objects.values()}:
            _write_obj(target / name, *MESHES[name])


def cornell_box() -> SceneDescription:
    """Two boxes in a room with a red and a green wall."""
    objects = {
        "floor": _wall("floor", (0.6, 0.6, 0.6)),
        "back_wall": _wall("back_wall", (0.6, 0.6, 0.6)),
        "left_wall": _wall("left_wall", (0.6, 0.06, 0.05)),
        "right_wall": _wall("right_wall", (0.1, 0.45, 0.08)),
        "tall_box": _box((-0.17, 0.14, -0.2), 18.0, (0.28, 0.28, 0.6), roughness=0.25),
        "short_box": _box((0.18, -0.15, -0.35), -17.0, (0.3, 0.3, 0.3), roughness=0.6),
        "light": _light((0.0, 0.0, 2.2), 5000.0),
    }
    return _scene("cornell_box", objects, Camera((0.0, -2.0, 0.0), ZERO, (0.0, 0.0, 1.0), 38.0))


def spheres() -> SceneDescription:
    """Three spheres from rough to glossy on a floor before a wall."""
    objects = {
        "floor": _wall("floor", (0.35, 0.35, 0.4)),
        "back_wall": _wall("back_wall", (0.55, 0.5, 0.4)),
        "rough_sphere": _sphere(-0.32, (0.6, 0.25, 0.1), 0.3, 0.7),
        "satin_sphere": _sphere(0.0, (0.15, 0.4, 0.25), 0.5, 0.3),
        "glossy_sphere": _sphere(0.32, (0.05, 0.1, 0.2), 0.75, 0.08),
        "light_above": _light((-0.4, -0.5, 2.2), 2500.0),
        "light_front": _light((0.9, -1.7, 1.3), 2000.0),
    }
    camera = Camera((0.0, -1.75, 0.35), (0.0, 0.0, -0.2), (0.0, 0.0, 1.0), 36.0)
    return _scene("spheres", objects, camera)


def knot() -> SceneDescription:
    """A glossy torus knot in the corner of a room."""
    surface = _material((0.5, 0.32, 0.05), 0.4, 0.2, smooth=True)
    placement = Transform((0.02, 0.0, -0.05), (70.0, 0.0, 25.0), (0.8, 0.8, 0.8), normalize=False)
    objects = {
        "floor": _wall("floor", (0.5, 0.5, 0.5)),
        "back_wall": _wall("back_wall", (0.2, 0.35, 0.55)),
        "right_wall": _wall("right_wall", (0.55, 0.5, 0.45)),
        "knot": SceneObject("knot.obj", placement, surface),
        "light_above": _light((-0.5, -0.6, 2.1), 2500.0),
        "light_left": _light((-1.9, -0.9, 0.9), 1800.0),
    }
    camera = Camera((-1.1, -1.3, 0.5), (0.05, 0.05, -0.05), (0.0, 0.0, 1.0), 40.0)
    return _scene("knot", objects, camera)


def _scene(name: str, objects: dict[str, SceneObject], camera: Camera) -> SceneDescription:
    return SceneDescription(name, "1.0", objects, (camera,))


def _material(
    diffuse: tuple[float, float, float], specular: float, roughness: float, smooth: bool
) -> Material:
    return Material(diffuse, (specular,) * 3, roughness, ZERO, smooth)


def _wall(name: str, diffuse: tuple[float, float, float]) -> SceneObject:
    return SceneObject("plane.obj", ROOM[name], _material(diffuse, 0.02, 0.9, smooth=False))


def _box(
    translation: tuple[float, float, float],
    turn: float,
    scale: tuple[float, float, float],
    roughness: float,
) -> SceneObject:
    """A box turned about the vertical; its x and y scale agree, or the turn would shear it."""
    placement = Transform(translation, (0.0, 0.0, turn), scale, normalize=False)
    return SceneObject("box.obj", placement, _material((0.5,) * 3, 0.35, roughness, smooth=False))


def _sphere(
    x: float, diffuse: tuple[float, float, float], specular: float, roughness: float
) -> SceneObject:
    placement = Transform((x, -0.05, -0.36), ZERO, (0.28, 0.28, 0.28), normalize=False)
    surface = _material(diffuse, specular, roughness, smooth=True)
    return SceneObject("sphere.obj", placement, surface)


def _light(position: tuple[float, float, float], radiance: float) -> SceneObject:
    """One small emitting triangle outside the room, as in the training data."""
    placement = Transform(position, ZERO, (2.3, 2.3, 2.3), normalize=False)
    emission = Material((1.0,) * 3, ZERO, 1.0, (radiance,) * 3, smooth_shading=False)
    return SceneObject("light.obj", placement, emission)


def _write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
