"""render.py: names and order of what it writes, damaged input halfway, runs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from rf_jax.errors import InputError
from rf_jax.images.comparison import TITLE_HEIGHT, comparison_image, with_titles
from rf_jax.images.files import load_exr, load_png, save_exr
from rf_jax.images.metrics import psnr
from rf_jax.rendering import files as render_files
from rf_jax.rendering.files import find_jobs, select_views
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import bundled_scene, save_h5
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.scene.random_scene import random_scene
from rf_jax.structs import DIFFUSE, EMISSION, expand_texture
from rf_jax.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
RENDER = "render.py"


@pytest.fixture
def frames(tmp_path):
    """A folder of three frames that look different."""
    folder = tmp_path / "frames.v1"
    folder.mkdir()
    scene = random_scene(12)
    for index, number in enumerate((1, 2, 10)):
        texture = scene.texture.copy()
        texture[:, DIFFUSE] = np.eye(3)[index]
        texture[:, EMISSION] = 100 * np.eye(3)[index]
        save_h5(scene.replace(texture=texture), folder / f"frame_{number}.h5")
    return folder


def small(*arguments):
    return (RENDER, *arguments, "--resolution", 64, "--output_dir", "out")


def decoded(path, height, width):
    """The frames [n, height, width, 3] of a video."""
    command = [get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    data = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


# --- what is written ---


def test_the_video_has_the_frames_in_natural_order(command, tmp_path, frames):
    status, out, _ = command(*small(frames))
    assert status == 0 and "36 triangles, 3 views" in out
    assert len(list((tmp_path / "out").iterdir())) == 3 * 2 + 1
    images = [load_png(tmp_path / "out" / f"frame_{n}_view_0.png") for n in (1, 2, 10)]
    video = decoded(tmp_path / "out" / "frames.v1.mp4", 64, 64)
    differences = np.abs(video[:, None].astype(float) - np.stack(images)).mean((2, 3, 4))
    assert differences.argmin(axis=1).tolist() == [0, 1, 2]


def test_devices_give_the_same_images(command, tmp_path):
    cameras = np.repeat(random_scene(12).camera_to_world, 5, axis=0)
    cameras[:, :3, 3] *= np.linspace(1, 1.2, 5)[:, None]
    scene = random_scene(12).replace(camera_to_world=cameras, fov_degrees=np.full(5, 40, "f4"))
    save_h5(scene, tmp_path / "a.h5")
    for devices in (1, 4):
        arguments = ("--devices", devices, "--output_dir", f"out{devices}")
        status, out, _ = command(RENDER, "a.h5", "--resolution", 16, *arguments)
        assert status == 0 and "12 triangles, 5 views" in out
    for view in range(5):
        one, four = (load_exr(tmp_path / f"out{n}" / f"a_view_{view}.exr") for n in (1, 4))
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-6)
    assert command(RENDER, "a.h5", "--devices", 9)[0] == 2


def test_a_frame_is_rendered_while_the_one_before_it_is_written(command, frames, monkeypatch):
    events = []
    for owner, name in ((Renderer, "load_scene"), (render_files, "save_exr")):
        function = getattr(owner, name)

        def noted(*arguments, name=name, function=function):
            events.append(name)
            return function(*arguments)

        monkeypatch.setattr(owner, name, noted)
    assert command(*small(frames))[0] == 0
    load, save = "load_scene", "save_exr"
    assert events == [load, load, save, load, save, save]


def test_a_job_warns_once_of_each_kind(command, frames, caplog):
    assert command(*small(frames))[0] == 0
    said = "a field of view of 45 degrees: the weights saw 35 to 42"
    assert [m for m in caplog.messages if "field of view" in m] == [f"frame_1: {said}"]


def test_the_default_resolution_is_that_of_the_weights(command, tmp_path, frames):
    assert command(RENDER, frames / "frame_1.h5", "--output_dir", "out")[0] == 0
    assert load_exr(tmp_path / "out" / "frame_1_view_0.exr").shape == (64, 64, 3)


def test_a_damaged_frame_leaves_whole_files_and_no_video(refused, tmp_path, frames):
    damaged = frames / "frame_2.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert "frame_2.h5: not a complete HDF5 file" in refused(*small(frames))
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["frame_1_view_0.exr", "frame_1_view_0.png"]
    load_png(tmp_path / "out" / "frame_1_view_0.png")


def test_bad_scenes_do_not_stop_the_others(command, tmp_path, frames, caplog):
    damaged = frames / "frame_2.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    status, out, errors = command(*small("none.json", damaged, frames / "frame_1.h5", "blue_room"))
    assert status == 2 and "109 triangles, 2 views" in out
    assert errors == "error: 2 of 4 scenes were not rendered: none.json, frame_2\n"
    first, second = (record.message for record in caplog.records if record.levelname == "ERROR")
    assert first.startswith("none.json: no such scene")
    assert "frame_2.h5: not a complete HDF5 file" in second
    for name in ("frame_1", "blue_room"):
        load_png(tmp_path / "out" / f"{name}_view_0.png")


def test_scenes_that_are_all_missing(refused, caplog):
    assert "none of the 2 scenes was found" in refused(*small("a.json", "b.json"))
    assert [message[:7] for message in caplog.messages] == ["a.json:", "b.json:"]


def test_saved_h5_of_all_frames(command, tmp_path, frames):
    assert command(*small(frames, "--save_h5"))[0] == 0
    for number in (1, 2, 10):
        with (
            h5py.File(frames / f"frame_{number}.h5") as source,
            h5py.File(tmp_path / "out" / f"frame_{number}.h5") as saved,
        ):
            for name in ("triangles", "vn", "texture", "c2w", "fov"):
                assert np.array_equal(source[name], saved[name])


def test_a_source_is_not_replaced_by_its_copy(refused, frames):
    before = [path.read_bytes() for path in frames.iterdir()]
    error = refused(RENDER, frames, "--save_h5", "--output_dir", frames)
    assert "frame_1.h5: --save_h5 would replace it" in error
    assert [path.read_bytes() for path in frames.iterdir()] == before


def test_no_scene_overwrites_anothers_images(refused, tmp_path, frames):
    other = tmp_path / "other"
    frames_copy = other / "frames.v2"
    frames_copy.mkdir(parents=True)
    for path in frames.iterdir():
        (frames_copy / path.name).write_bytes(path.read_bytes())
    # The folders have distinct names, their frames have not.
    assert "2 scenes are called 'frame_1'" in refused(*small(frames, frames_copy))
    alone = frames / "frame_2.h5"
    assert "2 scenes are called 'frame_2'" in refused(*small(frames, alone))
    assert "2 scenes are called 'frame_1'" in refused(*small(alone.with_stem("frame_1"), frames))
    assert not (tmp_path / "out").exists()


def test_no_scene_overwrites_anothers_ground_truth(refused, command, tmp_path, frames):
    for name in ("a", "a_truth"):
        (tmp_path / f"{name}.h5").write_bytes((frames / "frame_1.h5").read_bytes())
    expected = "a_truth: its images would be taken for the ground truth of a; rename it"
    assert expected in refused(*small("a.h5", "--scene", "a_truth.h5"))
    assert expected in refused(RENDER, "a_truth.h5", "--output_dir", tmp_path)
    assert command(*small("a_truth.h5"))[0] == 0


def test_names_of_jobs(frames):
    (job, bundled), missing = find_jobs([str(frames), "blue_room"])
    assert missing == [] and job.name == "frames.v1"
    assert job.frame_names == ["frame_1", "frame_2", "frame_10"]
    assert bundled.frame_names == ["blue_room"] and bundled.files == (bundled_scene("blue_room"),)
    ((animation,), _) = find_jobs(["turning_block"])
    assert animation.name == "turning_block" and len(animation.files) == 24
    assert animation.frame_names[:2] == ["frame_00", "frame_01"]
    for name in ("frame_2.h5", "frame_10.h5"):
        (frames / name).unlink()
    assert find_jobs([str(frames)])[0][0].frame_names == ["frames.v1"]


def test_scenes_by_option(command, tmp_path, frames):
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes((frames / "frame_1.h5").read_bytes())
    again = frames / "frame_2.h5"
    status, out, _ = command(*small(again, "--scene", "a.h5", "--scene", "b.h5"))
    assert status == 0 and "36 triangles, 3 views" in out
    for name in ("frame_2", "a", "b"):
        assert (tmp_path / "out" / f"{name}_view_0.png").is_file()


# --- against ground truth ---


def test_a_bundled_scene_is_compared(command, tmp_path):
    status, out, _ = command(RENDER, "cornell_box", "--output_dir", "out")
    assert status == 0
    image = load_exr(tmp_path / "out" / "cornell_box_view_0.exr")
    truth = load_ground_truth(bundled_scene("cornell_box"), [0])[0]
    assert f"cornell_box: PSNR {psnr(image, truth):.2f} dB" in out
    comparison = load_png(tmp_path / "out" / "cornell_box_view_0_comparison.png")
    expected = with_titles(comparison_image(np.clip(image, 0, 1), np.clip(truth, 0, 1)))
    assert np.array_equal(comparison, expected)


def test_no_comparison_at_another_resolution(command, tmp_path):
    arguments = ("cornell_box", "blue_room", "--resolution", 32, "--output_dir", "out")
    status, out, _ = command(RENDER, *arguments)
    assert status == 0 and "PSNR" not in out
    assert out.count("not compared") == 1 and "cornell_box (64x64), blue_room (64x64)" in out
    assert not list((tmp_path / "out").glob("*comparison*"))


def test_an_animation_with_ground_truth_gives_two_videos(command, tmp_path):
    status, out, _ = command(RENDER, "turning_block", "--tone_mapper", "agx")
    assert status == 0 and "turning_block: PSNR" in out and "ground truth (24 views)" in out
    assert decoded(tmp_path / "output" / "turning_block.mp4", 64, 64).shape[0] == 24
    video = decoded(tmp_path / "output" / "turning_block_comparison.mp4", 280, 768)
    pngs = [load_png(path) for path in sorted((tmp_path / "output").glob("*_comparison.png"))]
    assert video.shape[0] == len(pngs) == 24
    for index in (0, 13, 23):
        truths = video[index, :, 256:512], pngs[index][:, 256:512]
        assert np.abs(np.subtract(*truths, dtype=float)).mean() < 4


def test_training_files_are_compared_with_their_images(command, tmp_path):
    images = np.zeros((1, 32, 32, 4), np.float16)
    images[..., 1] = 0.5
    save_h5(random_scene(12), tmp_path / "a.h5", images=images)
    status, out, _ = command(RENDER, "a.h5", "--output_dir", "out")
    assert status == 0 and "a: PSNR" in out
    truth = load_png(tmp_path / "out" / "a_view_0_comparison.png")[TITLE_HEIGHT:, 256:512]
    assert truth.shape == (256, 256, 3)
    assert (truth == [0, 128, 0]).all()


def test_a_frame_without_ground_truth_leaves_out_the_comparing_video(command, tmp_path, frames):
    for number in (1, 10):
        truth = np.full((32, 32, 3), 0.5, np.float32)
        save_exr(frames / f"frame_{number}_truth_view_0.exr", truth)
    status, out, _ = command(RENDER, frames, "--output_dir", "out")
    assert status == 0 and "frames.v1: PSNR" in out and "(2 views)" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"frames.v1.mp4", "frame_10_view_0_comparison.png"} <= names
    assert not {"frames.v1_comparison.mp4", "frame_2_view_0_comparison.png"} & names
    # The first frame's ground truth gives all frames one size
    assert load_exr(tmp_path / "out" / "frame_2_view_0.exr").shape == (32, 32, 3)


def test_damaged_ground_truth(refused, frames):
    (frames / "frame_1_truth_view_0.exr").write_bytes(b"half")
    assert "frame_1_truth_view_0.exr: not a readable EXR" in refused(*small(frames))


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [0, 1, 2, 3]), ("2", [2]), ("3,0-1", [3, 0, 1]), ("0-2, 1-3", [0, 1, 2, 3])],
)
def test_views(text, expected):
    assert select_views(text, 4) == expected


@pytest.mark.parametrize("text", ["4", "0,4", "2-1", "0-99999999999999", "", ",", "-1", "1-2-3"])
def test_bad_views(text):
    with pytest.raises(InputError, match=r"views: expected .*, found") as error:
        select_views(text, 4)
    assert repr(text) in str(error.value)


# --- bad scenes and folders ---


def replace_dataset(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replace_dataset("triangles", np.zeros((0, 3, 3), "f4")), "triangles: expected shape"),
        (replace_dataset("triangles", np.zeros((12, 3, 3), "i4")), "triangles: expected floating"),
        (replace_dataset("vn", np.zeros((11, 3, 3), "f4")), "vn: expected shape [12, 3, 3]"),
        (replace_dataset("texture", np.zeros((12, 12), "f2")), "texture: expected shape"),
        (replace_dataset("texture", np.full((12, 13), np.nan, "f2")), "texture: expected finite"),
        (replace_dataset("c2w", np.zeros((1, 3, 4), "f4")), "c2w: expected shape"),
        (replace_dataset("c2w", np.zeros((1, 4, 4), "f4")), "c2w: expected a last row"),
        (replace_dataset("c2w", np.zeros((0, 4, 4), "f4")), "c2w: expected shape"),
        (replace_dataset("fov", np.array([[181]], "f4")), "fov: expected degrees in (0, 180)"),
        (replace_dataset("fov", np.array([b"wide"])), "fov: expected an array of numbers"),
    ],
)
def test_bad_h5(refused, tmp_path, frames, change, expected):
    path = frames / "frame_1.h5"
    with h5py.File(path, "r+") as file:
        change(file)
    assert f"frame_1.h5: {expected}" in refused(*small(path))
    assert list((tmp_path / "out").iterdir()) == []


def test_degenerate_triangles_are_dropped_with_a_count(command, frames, caplog):
    path = frames / "frame_1.h5"
    with h5py.File(path, "r+") as file:
        file["vn"][:3] = np.nan
    status, out, _ = command(*small(path))
    assert status == 0 and out.startswith("9 triangles, 1 views")
    assert "dropped 3 degenerate triangles" in caplog.text


def test_patches_of_another_size_than_the_networks(refused, tmp_path, config, variables):
    save_checkpoint(tmp_path / "weights", variables, config.to_dict())
    scene = random_scene(4)
    texture = expand_texture(scene.texture, 8)
    texture[0, 0, 0, 1] += 0.25
    save_h5(scene.replace(texture=texture), tmp_path / "a.h5")
    assert "a.h5: texture: expected patches of 2x2 texels" in refused(
        *small("a.h5", "--checkpoint", "weights")
    )


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/out"])
def test_output_folders_that_cannot_be_made(refused, tmp_path, folder):
    (tmp_path / "file").write_text("x")
    error = refused(RENDER, "blue_room", "--resolution", 64, "--output_dir", folder)
    assert f"{folder}: cannot be made" in error


def test_output_folders_without_permission(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(render_files.os, "access", lambda *_: False)
    assert "out: cannot be written; choose another --output_dir" in refused(*small("blue_room"))
    assert list((tmp_path / "out").iterdir()) == []


# --- processes of their own ---


def run(folder, *arguments, **environment):
    """A true run in `folder`: exit status, stdout, lines of stderr."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return result.returncode, result.stdout, result.stderr.splitlines()


def test_a_process_without_arguments(tmp_path):
    status, out, errors = run(tmp_path, ROOT / RENDER, HOME=str(tmp_path))
    assert status == 0 and errors == []
    assert "97 triangles, 1 views: loading" in out and "the bundled network" in out
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    names = sorted(path.name for path in (tmp_path / "output").iterdir())
    endings = (".exr", ".png", "_comparison.png")
    assert names == [f"cornell_box_view_0{ending}" for ending in endings]


def test_a_truncated_checkpoint_prints_one_line(tmp_path, config, variables):
    save_checkpoint(tmp_path / "weights", variables, config.to_dict())
    files = (tmp_path / "weights" / "variables").rglob("ocdbt.process_0/d/*")
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    arguments = ("blue_room", "--checkpoint", "weights")
    status, out, errors = run(tmp_path, ROOT / RENDER, *arguments)
    assert (status, out, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith("error: weights/variables/") and ": damaged: " in errors[0]
    assert not (tmp_path / "output").exists()


# Files end at 2,000 bytes, as on a full disk.
FULL_DISK = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_leaves_no_half_image(tmp_path):
    arguments = ("blue_room", "--resolution", "64", "--save_video")
    # The compilation cache would complain about the limit too.
    no_cache = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    status, out, errors = run(tmp_path, "-c", FULL_DISK, ROOT / RENDER, *arguments, **no_cache)
    assert (status, out, len(errors)) == (2, "", 1), errors
    assert "blue_room_view_0.exr: cannot be written" in errors[0]
    assert list((tmp_path / "output").iterdir()) == []
