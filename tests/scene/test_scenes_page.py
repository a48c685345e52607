"""docs/scenes.md: its template loads, its example runs, its tables name every field."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from rf_jax.scene import load_scene
from rf_jax.scene.check import scene_warnings
from rf_jax.scene.description import Camera, Material, SceneDescription, SceneObject, Transform
from rf_jax.trained_on import PUBLISHED

PAGE = (Path(__file__).parents[2] / "docs" / "scenes.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def page_folder(folder, monkeypatch):
    """A folder with the meshes of the page."""
    monkeypatch.chdir(folder)
    for name, text in zip(("floor.obj", "light.obj"), blocks("text"), strict=True):
        Path(name).write_text(text)
    return Path("a.obj").rename("thing.obj").parent


def test_the_template_is_a_scene_that_the_published_weights_expect(page_folder):
    (template,) = blocks("json")
    Path("scene.json").write_text(template)
    scene = load_scene("scene.json")
    assert not scene_warnings(scene, PUBLISHED)
    assert (scene.vertex_normals[scene.objects == 0, :, 2] == 1).all()
    assert (scene.vertex_normals[scene.objects == 2, :, 2] == -1).all()


def test_the_example_makes_the_same_scene(page_folder):
    (template,) = blocks("json")
    Path("scene.json").write_text(
        template.replace('"rotation": [0, 0, 30]', '"rotation": [0, 0, 0]')
    )
    names = {}
    exec(blocks("python")[0], names)
    built, loaded = names["scene"], load_scene("scene.json")
    assert built.object_names == loaded.object_names
    for name in ("texture", "camera_to_world", "fov_degrees", "objects"):
        np.testing.assert_allclose(getattr(built, name), getattr(loaded, name), atol=1e-6)
    surfaces = loaded.objects < 2
    assert np.array_equal(built.triangles[surfaces], loaded.triangles[surfaces])
    assert names["before"].shape == names["after"].shape == (1, 1, 64, 64, 3)
    assert names["before"].tobytes() != names["after"].tobytes()


@pytest.mark.parametrize("kind", [SceneDescription, SceneObject, Transform, Material, Camera])
def test_every_field_has_a_row_with_its_default(kind):
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE))
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            default = str(field.default).lower().replace("none", "null").removesuffix(".0")
            assert default in rows[field.name].split("|")[-1], field.name
        assert field.name in rows
