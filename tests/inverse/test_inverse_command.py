"""`python -m rf_jax.inverse` with a small random network."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest

from rf_jax.images.files import load_exr, load_png, save_exr
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import bundled_scene, load_scene, load_scene_description, save_h5
from rf_jax.scene.description import save_scene_description
from rf_jax.weights.checkpoint import save_checkpoint

FREE = "left_wall.diffuse=0.4,light.emission,floor.roughness,light.position=0.4 -0.7 2.4"


@pytest.fixture(scope="module")
def renderer(variables, config):
    return Renderer(variables, config, devices=1)


@pytest.fixture(scope="module")
def target(renderer):
    return renderer.render(load_scene("cornell_box"), 16)[0, 0]


@pytest.fixture
def inverse(command, tmp_path, variables, config, target):
    """The command with the small network and a target of it, which lies in target.exr."""
    save_checkpoint(tmp_path / "network", variables, config.to_dict())
    save_exr(tmp_path / "target.exr", target)

    def run(*arguments):
        return command("rf_jax.inverse", *arguments, "--checkpoint", "network")

    return run


def two_views(folder):
    """The bundled scene in a folder of its own, with a second camera."""
    shutil.copytree(bundled_scene("cornell_box").parent, folder)
    description = load_scene_description(folder / "scene.json")
    (camera,) = description.cameras
    cameras = camera, dataclasses.replace(camera, position=(0.5, -1.9, 0.2), fov=45.0)
    path = folder / "room.json"
    save_scene_description(dataclasses.replace(description, cameras=cameras), path)
    return path


@pytest.mark.slow
def test_a_fit(inverse, tmp_path, renderer):
    """Of two views, each with a target."""
    pytest.importorskip("matplotlib")
    scene = two_views(tmp_path / "scenes")
    targets = renderer.render(load_scene(scene), 16)[0]
    for i, target in enumerate(targets):
        save_exr(f"target_{i}.exr", target)
    arguments = ("--free", FREE, "--steps", 12, "--output_dir", "a/fit", "--remat")
    status, out, _ = inverse(scene, "target_0.exr", "target_1.exr", *arguments)
    assert status == 0
    *lines, loss, written = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "left_wall.diffuse", "light.emission", "floor.roughness", "light.position"
    ]  # fmt: skip
    assert lines[3].startswith("light.position: 0.4 -0.7 2.4 -> ")
    assert loss.startswith("loss: ") and written == "-> a/fit/room_fitted.json"
    folder = tmp_path / "a" / "fit"
    rows = list(csv.reader((folder / "loss.csv").open()))
    losses = [float(value) for _, value in rows[1:]]
    assert len(losses) == 13 and min(losses) < 0.5 * losses[0]
    # The written scene renders to the result, from another folder too
    image = renderer.render(load_scene(folder / "room_fitted.json"), 16)[0]
    result = np.stack([load_exr(folder / f"room_fitted_view_{i}.exr") for i in range(2)])
    np.testing.assert_allclose(np.log1p(image), np.log1p(result), rtol=1e-4, atol=1e-5)
    error = np.log10(1 + np.maximum(result, 0)) - np.log10(1 + np.maximum(targets, 0))
    assert np.mean(error**2) < 0.7 * losses[0]
    # The walls that were not free are as they were
    written = load_scene_description(folder / "room_fitted.json")
    assert written.objects["right_wall"].material.diffuse == (0.1, 0.45, 0.08)
    sheet, curve = load_png(folder / "sheet.png"), load_png(folder / "loss.png")
    assert sheet.shape[1] == 4 * 256 and sheet.shape[0] > 2 * 256 and curve.std() > 1


def assert_refused(result, *parts):
    status, out, err = result
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("free", "parts"),
    [
        ("sofa.diffuse", ("no object named 'sofa'", "left_wall")),
        ("floor.color", ("floor.color: unknown key", "diffuse")),
    ],
)
def test_unknown_names(inverse, tmp_path, free, parts):
    assert_refused(inverse("cornell_box", "target.exr", "--free", free), *parts)
    assert not (tmp_path / "output").exists()


def test_scenes_that_cannot_be_fitted(inverse):
    free = ("--free", "floor.diffuse")
    save_h5(load_scene("cornell_box"), "scene.h5")
    assert_refused(inverse("scene.h5", "target.exr", *free), "scene.h5", "hold no names")
    assert_refused(inverse("none.json", "target.exr", *free), "none.json")
    assert_refused(inverse("turning_block", "target.exr", *free), "an animation")


def test_targets_that_do_not_fit(inverse):
    def refused(*targets):
        return inverse("cornell_box", *targets, "--free", "floor.diffuse")

    for name, shape in (("wide.exr", (16, 24, 3)), ("odd.exr", (20, 20, 3))):
        save_exr(name, np.ones(shape, np.float32))
    assert_refused(refused("wide.exr"), "wide.exr: expected a square image, found 24x16")
    assert_refused(refused("odd.exr"), "odd.exr: resolution", "multiple of 8", "found 20")
    assert_refused(refused("target.exr", "target.exr"), "one image per camera", "1, found 2")
    assert_refused(refused("none.exr"), "none.exr")


@pytest.mark.parametrize(
    ("option", "value"), [("--steps", 0), ("--learning_rate", "nan"), ("--max_move", -1)]
)
def test_options_out_of_range(inverse, option, value):
    arguments = ("cornell_box", "target.exr", "--free", "floor.diffuse", option, value)
    status, _, err = inverse(*arguments)
    assert status == 2 and f"{option}: expected" in err
