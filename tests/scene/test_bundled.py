import json

import numpy as np
import pytest
import trimesh

from rf_jax import texture as tex
from rf_jax.errors import InputError
from rf_jax.scene import bundled_scene, bundled_scene_names, load_scene, make_bundled, primitives

NAMES = ["cornell_box", "knot", "spheres"]


def test_names():
    assert bundled_scene_names() == NAMES
    with pytest.raises(InputError, match="no bundled scene named 'x'; there are cornell_box, knot"):
        bundled_scene("x")


@pytest.mark.parametrize("name", NAMES)
def test_bundled_scenes_are_like_the_training_data(name):
    path = bundled_scene(name)
    scene = load_scene(path)
    assert len(scene.triangles) <= 1600
    emission = scene.texture[:, tex.EMISSION].mean(axis=1)
    light = emission > 0
    assert 2500 <= emission.sum() <= 5000
    assert np.abs(scene.triangles[~light]).max() <= 0.5 + 1e-6
    distance = np.linalg.norm(scene.triangles[light].mean(axis=1), axis=-1)
    assert ((distance > 2.09) & (distance < 2.71)).all()
    corners = scene.triangles[light]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    assert ((edges > 2 * 0.0707 - 1e-4) & (edges < 2.5 * 0.0707 + 1e-4)).all()
    camera = json.loads(path.read_text())["cameras"][0]
    reach = np.linalg.norm(np.subtract(camera["position"], camera["look_at"]))
    assert 1.5 <= reach <= 2.0 and 30 <= camera["fov"] <= 60
    assert all(file.stat().st_size < 100_000 for file in path.parent.iterdir())


def test_the_generator_makes_the_committed_files(tmp_path):
    make_bundled.main(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    kept = sorted(
        path.relative_to(make_bundled.ASSETS) for path in make_bundled.ASSETS.rglob("*.*")
    )
    assert made == kept
    for path in made:
        new, old = (tmp_path / path).read_text(), (make_bundled.ASSETS / path).read_text()
        if path.suffix == ".json":
            assert new == old
        else:  # the last digit may differ between machines
            new, old = (np.array([line.split()[1:] for line in x.splitlines()]) for x in (new, old))
            np.testing.assert_allclose(new.astype(float), old.astype(float), atol=2e-6)


@pytest.mark.parametrize(
    ("mesh", "faces", "volume"),
    [
        (primitives.box(3), 108, 1.0),
        (primitives.icosphere(2), 320, np.pi / 6),
        (primitives.torus_knot(2, 3, 0.07, 44, 13), 1144, 0.066),
    ],
)
def test_solids_are_closed_and_face_outwards(mesh, faces, volume):
    solid = trimesh.Trimesh(*mesh)
    assert solid.is_watertight and len(solid.faces) == faces
    assert np.abs(solid.vertices).max() <= 0.5 + 1e-9
    np.testing.assert_allclose(solid.volume, volume, rtol=0.05)


def test_knot_is_smooth_everywhere():
    knot = trimesh.Trimesh(*make_bundled.MESHES["knot.obj"])
    assert np.rad2deg(knot.face_adjacency_angles.max()) < 30


def test_plane_and_triangle():
    plane = trimesh.Trimesh(*primitives.plane_grid(8))
    assert len(plane.faces) == 128
    np.testing.assert_allclose(plane.area, 1)
    np.testing.assert_allclose(plane.face_normals, np.tile([0, 0, 1], (128, 1)))
    light = trimesh.Trimesh(*primitives.equilateral_triangle(0.0707))
    np.testing.assert_allclose(light.area, 0.002165, rtol=1e-3)
    np.testing.assert_allclose(light.face_normals, [[0, 0, -1]])
