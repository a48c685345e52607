import os
import subprocess

import hypothesis
import imageio.v3 as iio
import numpy as np
import OpenEXR
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.images import files as image_files
from rf_jax.images.files import VideoWriter, load_exr, load_png, save_exr, save_png


def _shapes(*channels):
    return st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from(channels))


def _gray_frames(count, height, width):
    return (np.full((height, width, 3), 40 * i, np.uint8) for i in range(count))


def _save_video(path, frames, fps=24):
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.add(frame)


def _save_any_exr(path, **channels):
    OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(path))


# Atomic writing


def test_atomic_path_replaces_at_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "weights.h5"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".h5"
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["weights.h5"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError])
def test_atomic_path_keeps_the_old_file_on_failure(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(InputError if failure is OSError else failure),
        atomic_path(path) as temporary,
    ):
        temporary.write_text("half")
        raise failure("fault")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_keeps_the_usual_permissions(tmp_path):
    path, usual = tmp_path / "a.bin", tmp_path / "usual"
    usual.touch()
    with atomic_path(path) as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("name", ["file/a.png", "folder"])
def test_atomic_path_names_the_unwritable_path(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    message = f"{name}: cannot be written .* another path"
    with pytest.raises(InputError, match=message) as error, atomic_path(tmp_path / name):
        pass
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# EXR


@hypothesis.given(
    hnp.arrays(
        np.float32,
        _shapes(3, 4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_exr_round_trip_is_exact(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("exr") / "image.exr"
    save_exr(path, image)
    loaded = load_exr(path)
    assert loaded.dtype == np.float32
    assert loaded.tobytes() == image.tobytes()
    assert loaded.shape == image.shape


def test_exr_of_a_strided_image(tmp_path):
    image = np.random.default_rng(0).random((7, 5, 4), np.float32).transpose(1, 0, 2)[::-1, :, :3]
    save_exr(tmp_path / "a.exr", image)
    np.testing.assert_array_equal(load_exr(tmp_path / "a.exr"), image)


def test_exr_reads_rgb_among_other_channels_and_half_floats(tmp_path):
    rgb = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    _save_any_exr(tmp_path / "a.exr", RGB=rgb, Z=np.ones((2, 2), np.float32))
    loaded = load_exr(tmp_path / "a.exr")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, rgb)


def test_half_exr_is_rounded_and_smaller(tmp_path):
    image = np.random.default_rng(0).random((64, 64, 3), np.float32)
    save_exr(tmp_path / "half.exr", image, half=True)
    save_exr(tmp_path / "full.exr", image)
    loaded = load_exr(tmp_path / "half.exr")
    np.testing.assert_array_equal(loaded, image.astype(np.float16))
    sizes = [(tmp_path / name).stat().st_size for name in ("half.exr", "full.exr")]
    assert sizes[0] < 0.6 * sizes[1]
    with pytest.raises(InputError, match="12 of 12 image values are nan or inf in float16"):
        save_exr(tmp_path / "a.exr", np.full((2, 2, 3), 1e5, np.float32), half=True)


def test_exr_without_rgb_lists_what_it_has(tmp_path):
    _save_any_exr(tmp_path / "a.exr", Y=np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match=r"a\.exr: expected channels R, G, B, found Y"):
        load_exr(tmp_path / "a.exr")


def test_exr_refuses_values_that_are_not_finite(tmp_path):
    image = np.ones((2, 2, 3), np.float32)
    image[0, 0] = [np.nan, np.inf, -np.inf]
    with pytest.raises(InputError, match="3 of 12"):
        save_exr(tmp_path / "a.exr", image)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("suffix", "save", "load", "dtype"),
    [(".exr", save_exr, load_exr, np.float32), (".png", save_png, load_png, np.uint8)],
)
def test_truncated_files(tmp_path, fraction, suffix, save, load, dtype):
    path = tmp_path / f"a{suffix}"
    save(path, (np.random.default_rng(0).random((64, 64, 3)) * 255).astype(dtype))
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(InputError, match="cut short"):
        load(path)


@pytest.mark.parametrize("load", [load_exr, load_png])
def test_missing_files(tmp_path, load):
    with pytest.raises(InputError, match="nowhere: no such file"):
        load(tmp_path / "nowhere")


# Shapes, dtypes and failures of every writer


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 5), (0, 4, 3), (1, 4, 4, 3)])
@pytest.mark.parametrize(
    ("save", "dtype"),
    [
        (save_exr, np.float32),
        (save_png, np.uint8),
        (lambda path, image: _save_video(path, [image]), np.uint8),
    ],
)
def test_refuses_other_shapes(tmp_path, save, dtype, shape):
    with pytest.raises(InputError, match=r"expected an image .* \[H, W, 3.*, found"):
        save(tmp_path / "a", np.zeros(shape, dtype))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("save", "dtype"), [(save_exr, np.float64), (save_png, np.float32)])
def test_refuses_other_dtypes(tmp_path, save, dtype):
    with pytest.raises(InputError, match=f"found {np.dtype(dtype).name}"):
        save(tmp_path / "a", np.zeros((2, 2, 3), dtype))


def test_exr_writer_failing_halfway_leaves_nothing(tmp_path, monkeypatch):
    class FailingFile:
        def __init__(self, *_):
            pass

        def write(self, path):
            with open(path, "wb") as file:
                file.write(b"half")
            raise RuntimeError("disk full")

    monkeypatch.setattr(OpenEXR, "File", FailingFile)
    with pytest.raises(InputError, match=r"a\.exr: cannot be written \(disk full\)"):
        save_exr(tmp_path / "a.exr", np.zeros((2, 2, 3), np.float32))
    assert os.listdir(tmp_path) == []


def test_png_writer_failing_halfway_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_files.iio, "imwrite", fail)
    with pytest.raises(InputError, match="No space left"):
        save_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert os.listdir(tmp_path) == []


# PNG


@hypothesis.given(hnp.arrays(np.uint8, _shapes(3, 4)))
def test_png_round_trip_is_exact(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("png") / "image.png"
    save_png(path, image)
    np.testing.assert_array_equal(load_png(path), image)


def test_png_of_another_kind(tmp_path):
    iio.imwrite(tmp_path / "a.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match="found uint16"):
        load_png(tmp_path / "a.png")


# Video


@pytest.mark.parametrize(("height", "width"), [(16, 32), (15, 31), (1, 1)])
def test_video_has_every_frame_at_even_size(tmp_path, height, width):
    path = tmp_path / "v.mp4"
    _save_video(path, _gray_frames(5, height, width), 12)
    video = iio.imread(path, plugin="FFMPEG")
    even_size = (height + height % 2, width + width % 2)
    assert video.shape == (5, *even_size, 3)
    levels = video.mean((1, 2, 3))
    np.testing.assert_allclose(levels, 40 * np.arange(5), atol=3)
    assert iio.immeta(path, plugin="FFMPEG")["fps"] == 12
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_video_keeps_colours_and_is_playable(tmp_path):
    colour = np.array([220, 60, 30])
    _save_video(tmp_path / "v.mp4", [np.full((32, 32, 3), colour, np.uint8)] * 3)
    video = iio.imread(tmp_path / "v.mp4", plugin="FFMPEG")
    np.testing.assert_allclose(video.mean((0, 1, 2)), colour, atol=4)
    probe = subprocess.run(
        [image_files.get_ffmpeg_exe(), "-i", tmp_path / "v.mp4"], capture_output=True, text=True
    )
    assert "h264" in probe.stderr
    assert "yuv420p(tv, bt709" in probe.stderr


def test_video_whose_frames_fail_leaves_nothing(tmp_path):
    def frames():
        yield from _gray_frames(3, 16, 16)
        raise RuntimeError("fault")

    with pytest.raises(RuntimeError, match="fault"):
        _save_video(tmp_path / "v.mp4", frames())
    assert os.listdir(tmp_path) == []


def test_video_whose_encoder_fails_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"v\.mp4: cannot be written \(ffmpeg: ") as error:
        _save_video(tmp_path / "v.mp4", _gray_frames(100, 64, 64), -1)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_video_refuses_no_frames_and_mixed_sizes(tmp_path):
    with pytest.raises(InputError, match="found none"):
        _save_video(tmp_path / "v.mp4", iter(()))
    mixed = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    with pytest.raises(InputError, match="frame 1: expected the first frame's shape"):
        _save_video(tmp_path / "v.mp4", mixed)
    assert os.listdir(tmp_path) == []


def test_video_takes_frames_as_they_come_and_appears_at_the_end(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 24) as video:
        assert os.listdir(tmp_path) == []
        for frame in _gray_frames(3, 16, 16):
            video.add(frame)
        assert not (tmp_path / "v.mp4").exists()
    assert os.listdir(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("before", [0, 3])
def test_discarded_video_leaves_nothing(tmp_path, before):
    with VideoWriter(tmp_path / "v.mp4", 24) as video:
        for frame in _gray_frames(before, 16, 16):
            video.add(frame)
        video.discard()
        video.add(np.zeros((8, 8, 3), np.uint8))
    assert os.listdir(tmp_path) == []


def test_video_does_not_take_errors_of_its_block_for_its_own(tmp_path):
    with pytest.raises(OSError, match="elsewhere"), VideoWriter(tmp_path / "v.mp4", 24) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
        raise OSError("elsewhere")
    assert os.listdir(tmp_path) == []
