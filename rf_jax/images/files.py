"""Image and video files: EXR for linear radiance, PNG and MP4 for display values."""

import contextlib
import itertools
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import OpenEXR
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from rf_jax.errors import InputError
from rf_jax.files import atomic_path

# The bt709 matrix, and its tag: players assume others for untagged files, and colours shift.
_VIDEO_OPTIONS = shlex.split(
    "-c:v libx264 -crf 10 -pix_fmt yuv420p -vf scale=out_color_matrix=bt709 "
    "-colorspace bt709 -movflags +faststart"
)


def save_exr(path: str | os.PathLike, image: NDArray[np.float32], half: bool = False) -> None:
    """Writes a linear image [H, W, 3] (RGB) or [H, W, 4] (RGBA) as float32, without loss.

    Args:
      half: rounds to float16, a third to a half of the bytes.

    Raises:
      InputError: another shape or dtype, values that are not finite (or beyond float16, where that
        is written), or an unwritable path.
    """
    image = _checked(path, image, np.float32, (3, 4))
    if half:
        with np.errstate(over="ignore"):  # to inf, which is refused
            image = image.astype(np.float16)
    if bad := np.count_nonzero(~np.isfinite(image)):
        kind = image.dtype.name
        raise InputError(
            f"{path}: {bad} of {image.size} image values are nan or inf in {kind}; not written"
        )
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    # OpenEXR ignores strides: anything but a contiguous array comes out scrambled.
    channels = {"RGBA"[: image.shape[-1]]: np.ascontiguousarray(image)}
    with atomic_path(path) as temporary:
        try:
            OpenEXR.File(header, channels).write(str(temporary))
        except RuntimeError as error:
            raise OSError(str(error)) from error


def load_exr(path: str | os.PathLike) -> NDArray[np.float32]:
    """Reads the R, G, B (and A, if there) channels of an EXR: [H, W, 3 or 4] float32, linear.

    Raises:
      InputError: a missing or damaged file, or one without R, G and B.
    """
    _require_file(path)
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a readable EXR, damaged or cut short; replace it") from error
    if not {"R", "G", "B"} <= channels.keys():
        raise InputError(
            f"{path}: expected channels R, G, B, found {', '.join(channels)}; save it as RGB"
        )
    return np.stack([channels[c] for c in "RGBA" if c in channels], -1).astype(np.float32)


def save_png(path: str | os.PathLike, image: NDArray[np.uint8]) -> None:
    """Writes display values, uint8 [H, W, 3] (RGB) or [H, W, 4] (RGBA).

    Raises:
      InputError: another shape or dtype, or an unwritable path.
    """
    image = _checked(path, image, np.uint8, (3, 4))
    with atomic_path(path) as temporary:
        iio.imwrite(temporary, image, extension=".png", plugin="pillow")


def load_png(path: str | os.PathLike) -> NDArray[np.uint8]:
    """Reads an 8-bit RGB or RGBA PNG: [H, W, 3 or 4] uint8.

    Raises:
      InputError: a missing or damaged file, or another kind of image.
    """
    _require_file(path)
    try:
        image = iio.imread(path, extension=".png", plugin="pillow")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a readable PNG, damaged or cut short; replace it") from error
    return _checked(path, image, np.uint8, (3, 4))


def save_video(path: str | os.PathLike, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Writes frames, uint8 [H, W, 3] of one size, as an H.264 MP4 that common players show.

    Frames are taken one at a time. H.264 wants even sizes: an odd last row or column is doubled.

    Raises:
      InputError: no frames, frames of another shape or dtype, or an unwritable path.
    """
    frames = _even_frames(path, frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: a video needs at least one frame, found none")
    height, width, _ = first.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
    with atomic_path(path) as temporary:
        output = [*_VIDEO_OPTIONS, "-f", "mp4", str(temporary)]
        command = [get_ffmpeg_exe(), "-y", "-v", "error", *source, *output]
        _pipe(command, itertools.chain([first], frames))


def _even_frames(
    path: str | os.PathLike, frames: Iterable[NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Checked frames, [H, W, 3] with H and W even."""
    shape = None
    for index, frame in enumerate(frames):
        frame = _checked(f"{path}: frame {index}", frame, np.uint8, (3,))
        shape = shape or frame.shape
        if frame.shape != shape:
            raise InputError(
                f"{path}: frame {index}: expected the first frame's shape {shape}, "
                f"found {frame.shape}; give every frame one size"
            )
        odd_rows, odd_columns = shape[0] % 2, shape[1] % 2
        yield np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")


def _pipe(command: list[str], frames: Iterable[NDArray[np.uint8]]) -> None:
    """Runs a command with the frames' bytes as its input; OSError when it fails."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # A command that ends early breaks the pipe; its own message says why.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            for frame in frames:
                process.stdin.write(frame.tobytes())
        messages = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise OSError(f"ffmpeg: {messages[-1] if messages else process.returncode}")


def _checked(
    where: str | os.PathLike, image: NDArray, dtype: type, channels: tuple[int, ...]
) -> NDArray:
    image = np.asarray(image)
    shape_fits = image.ndim == 3 and image.size > 0 and image.shape[-1] in channels
    if image.dtype != dtype or not shape_fits:
        expected = f"{np.dtype(dtype).name} [H, W, {' or '.join(map(str, channels))}]"
        raise InputError(
            f"{where}: expected an image {expected}, found {image.dtype.name} {list(image.shape)}"
        )
    return image


def _require_file(path: str | os.PathLike) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
