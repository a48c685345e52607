"""Punctual lights become triangles that emit as much."""

import math

import numpy as np
import pytest
import trimesh
from scipy.integrate import quad

from rf_jax.errors import InputError
from rf_jax.scene.gltf.load import _clearance, load_gltf
from rf_jax.structs import DIFFUSE, EMISSION, SPECULAR

CUBE = [[-1, -1, -1], [1, 1, 1], [1, -1, -1]]
"""A triangle whose bounding cube has the half side 1 around the origin."""


@pytest.fixture
def load(gltf, tmp_path):
    gltf.node(name="thing", primitives=[gltf.triangles(CUBE)])

    def load(node=None, generator="", **light):
        gltf.document["asset"]["generator"] = generator
        gltf.node(name="lamp", extensions=gltf.light(**light), **(node or {}))
        return load_gltf(gltf.write(tmp_path / "scene.glb"))[0]

    return load


def emitted(scene):
    """Corners [3, 3], area and radiance [3] of the only light."""
    texture = np.asarray(scene.texture, np.float64)
    (light,) = np.flatnonzero(texture[:, EMISSION].any(axis=1))
    corners = np.asarray(scene.triangles, np.float64)[light]
    assert scene.object_names[scene.objects[light]] == "lamp"
    assert (texture[light, DIFFUSE] == 1).all() and (texture[light, SPECULAR] == 0).all()
    area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0])) / 2
    return corners, area, texture[light, EMISSION]


def spot_power(inner, outer):
    """The integral of a spot light's intensity over all directions, numerically."""
    a, b = math.cos(inner), math.cos(outer)

    def intensity(angle):
        value = np.clip((math.cos(angle) - b) / max(1e-3, a - b), 0, 1)
        return value**2 * 2 * math.pi * math.sin(angle)

    return quad(intensity, 0, outer, points=[inner], epsabs=1e-10)[0]


@pytest.mark.parametrize("position", [[0, 9, 0], [3, -4, 5], [0, 0, 40]])
def test_a_point_light_keeps_its_power(load, position):
    node = {"translation": position, "scale": [3, 3, 3]}
    scene = load(node, type="point", intensity=50, color=[1, 0.5, 0.25])
    corners, area, radiance = emitted(scene)
    power = 2 * math.pi * area * radiance  # from both sides of a Lambertian emitter
    np.testing.assert_allclose(power, 4 * math.pi * 50 * np.array([1, 0.5, 0.25]), rtol=1e-5)
    x, y, z = position
    np.testing.assert_allclose(corners.mean(axis=0), [x, -z, y], atol=1e-5)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    towards = -corners.mean(axis=0)
    assert normal @ towards == pytest.approx(np.linalg.norm(normal) * np.linalg.norm(towards))


@pytest.mark.parametrize(("inner", "outer"), [(0.2, 0.5), (0.0, 0.8), (1.0, 1.5)])
def test_a_spot_light_keeps_its_power(load, inner, outer):
    spot = {"innerConeAngle": inner, "outerConeAngle": outer}
    node = {"translation": [0, 9, 0], "rotation": [-math.sqrt(0.5), 0, 0, math.sqrt(0.5)]}
    corners, area, radiance = emitted(load(node, type="spot", intensity=50, spot=spot))
    power = 2 * math.pi * area * radiance
    np.testing.assert_allclose(power, 50 * spot_power(inner, outer), rtol=1e-5)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    np.testing.assert_allclose(normal / np.linalg.norm(normal), [0, 0, -1], atol=1e-6)


def test_a_directional_light_keeps_its_irradiance(load):
    """Downwards, in the middle of the scene; where its node stands does not matter."""
    node = {"translation": [5, 6, 7], "rotation": [-math.sqrt(0.5), 0, 0, math.sqrt(0.5)]}
    corners, area, radiance = emitted(load(node, type="directional", intensity=12))
    middle = corners.mean(axis=0)
    np.testing.assert_allclose(radiance * area / (middle @ middle), 12, rtol=1e-5)
    np.testing.assert_allclose(middle, [0, 0, 4.8], atol=1e-5)


def test_blender_writes_683_lumens_for_a_watt(load):
    node = {"translation": [0, 9, 0]}
    generator = "Khronos glTF Blender I/O v5.3.43"
    _, area, radiance = emitted(load(node, generator, type="point", intensity=683 * 50))
    np.testing.assert_allclose(radiance, 2 * 50 / area, rtol=1e-5)


def test_a_light_near_a_surface_does_not_touch_it(load):
    corners, area, radiance = emitted(load({"translation": [0, 0.1, 0]}, type="point", intensity=1))
    np.testing.assert_allclose(radiance * area, 2, rtol=1e-5)
    a, b, c = (np.array([x, -z, y], float) for x, y, z in CUBE)
    normal = np.cross(b - a, c - a)
    distances = np.array([*corners, corners.mean(axis=0)]) @ normal / np.linalg.norm(normal)
    distances -= a @ normal / np.linalg.norm(normal)
    assert (np.sign(distances) == np.sign(distances[-1])).all() and abs(distances[-1]) < 0.15


@pytest.mark.parametrize(
    ("light", "message"),
    [
        ({"type": "area"}, "expected a point, spot or directional light, found 'area'"),
        ({"type": "point", "intensity": -1}, "intensity: expected a number >= 0"),
        ({"type": "spot", "spot": {"innerConeAngle": 1, "outerConeAngle": 0.5}}, "innerConeAngle"),
        ({"type": "spot", "spot": {"outerConeAngle": 3}}, "outerConeAngle"),
        ({"intensity": 1}, "type: missing key"),
    ],
)
def test_lights_that_are_none(load, light, message):
    with pytest.raises(InputError, match=message):
        load(**light)


def test_the_nearest_surface_is_found():
    """Also where a large triangle is near whose centre is far."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(-5, 2, (300, 1, 1)))
    surfaces = rng.normal(size=(300, 3, 3)) * sizes + rng.normal(size=(300, 1, 3))
    centres = surfaces.mean(axis=1)
    radii = np.linalg.norm(surfaces - centres[:, None], axis=-1).max(axis=1)
    for point in 3 * rng.normal(size=(50, 3)):
        nearest = trimesh.triangles.closest_point(surfaces, np.tile(point, (300, 1)))
        expected = np.linalg.norm(nearest - point, axis=1).min()
        assert _clearance(point, surfaces, centres, radii) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["point", "spot", "directional"])
def test_a_dark_light_is_left_out(triangle, tmp_path, kind):
    triangle.node(extensions=triangle.light(type=kind, intensity=0), translation=[0, 0, 9])
    scene, report = load_gltf(triangle.write(tmp_path / "scene.glb"))
    assert scene.object_names == ("corner",)
    assert (f"{kind} light light_0", "dropped: it is dark") in report.mapped


def test_a_scene_without_a_light_gets_one(triangle, tmp_path):
    scene, report = load_gltf(triangle.write(tmp_path / "scene.glb"))
    assert scene.object_names == ("corner", "light")
    assert ("no light", "a white one, above and in front, like the published ones") in report.rows()
