"""Ground truth for scene files: `python -m rf_jax.datagen path_trace`."""

import runpy
import sys

import numpy as np
import pytest

from rf_jax.datagen import trace
from rf_jax.datagen.config import RenderConfig
from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.scene import bundled_scene, load_scene, save_h5
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.structs import expand_texture


@pytest.fixture
def path_trace(monkeypatch, capsys, tmp_path):
    """Runs the command with the scalar variant only: its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rf_jax.datagen.probe.VARIANTS", ("scalar_rgb",))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["", "path_trace", *map(str, arguments)])
        try:
            runpy.run_module("rf_jax.datagen", run_name="__main__")
            status = 0
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_bundled_scene_into_a_folder(path_trace, tmp_path):
    small = ("--resolution", 16, "--spp", 4, "--max_depth", 2, "--output_dir", "out")
    status, out, _ = path_trace("blue_room", *small)
    assert status == 0 and "1 images -> out/" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene_truth_view_0.exr"]
    image = load_exr(tmp_path / "out" / "scene_truth_view_0.exr")
    assert image.shape == (16, 16, 3) and 0.1 < image.mean() < 1
    np.testing.assert_array_equal(image, image.astype(np.float16))


def test_frames_of_a_folder_and_all_views(path_trace, tmp_path):
    scene = load_scene(bundled_scene("blue_room"))
    cameras, fov = (np.concatenate([x, x]) for x in (scene.camera_to_world, scene.fov_degrees))
    scene = scene.replace(camera_to_world=cameras, fov_degrees=fov)
    images = np.ones((2, 8, 8, 4), np.float16)
    for name in ("frame_1", "frame_2"):
        save_h5(scene, tmp_path / "frames" / f"{name}.h5", images=images)
    status, out, _ = path_trace("frames", "--resolution", 16, "--spp", 4)
    assert status == 0 and "4 images -> frames/" in out
    first, second = (load_ground_truth(tmp_path / "frames" / f"frame_{i}.h5", [0, 1]) for i in "12")
    assert first.shape == (2, 16, 16, 3)
    # The scene and the camera are the same four times, but the noise is not
    assert len(np.unique([*first, *second], axis=0)) == 4


@pytest.mark.parametrize("number", [0, 10**9])
@pytest.mark.parametrize("option", ["resolution", "spp", "max_depth"])
def test_numbers_out_of_range(path_trace, option, number):
    status, _, err = path_trace("blue_room", f"--{option}", number)
    assert status == 2 and err.count("\n") == 1
    assert err.startswith(f"error: {option}: expected an integer in [1, ")
    assert err.endswith(f"], found {number}\n")


def test_what_mitsuba_raises_is_one_line(tmp_path, monkeypatch):
    class Failing:
        def render(self, scene, seed):
            raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(trace, "make_path_tracer", lambda *_: Failing())
    path = bundled_scene("blue_room")
    with pytest.raises(InputError, match=r"Mitsuba cannot render it \(first line second line\)"):
        trace.trace_files([path], RenderConfig(8, 1, variant="scalar_rgb"), tmp_path)


def test_no_such_scene(path_trace):
    status, _, err = path_trace("missing")
    assert status == 2 and "missing: no such scene file" in err


def test_patches_cannot_be_traced(tmp_path):
    scene = load_scene(bundled_scene("blue_room"))
    texture = expand_texture(scene.texture, 2)
    texture[0, 0, 0, 1] += 0.25
    save_h5(scene.replace(texture=texture), tmp_path / "a.h5")
    config = RenderConfig(8, 1, variant="scalar_rgb")
    with pytest.raises(InputError, match=r"a\.h5: texture: expected one value per triangle, found"):
        trace.trace_files([tmp_path / "a.h5"], config, None)
