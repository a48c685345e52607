"""Image and video files: EXR for linear radiance, PNG and MP4 for display values."""

import contextlib
import io
import os
import shlex
import subprocess
import threading
import warnings
from collections.abc import Generator, Iterator

import imageio.v3 as iio
import numpy as np
import OpenEXR
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image

from rf_jax.errors import InputError, listed
from rf_jax.files import atomic_path, check_file

# The bt709 matrix and its tag: players assume another matrix for untagged files, and colours shift.
_VIDEO_OPTIONS = shlex.split(
    "-c:v libx264 -crf 10 -pix_fmt yuv420p -vf scale=out_color_matrix=bt709 "
    "-colorspace bt709 -movflags +faststart"
)


def save_exr(path: str | os.PathLike, image: NDArray[np.float32], half: bool = False) -> None:
    """Writes a linear image [H, W, 3] (RGB) or [H, W, 4] (RGBA), as float32 without loss.

    Args:
      half: rounds to float16, which takes a third to a half of the bytes.

    Raises:
      InputError: another shape or dtype, values that are not finite (or, with `half`, too large for
        float16), or an unwritable path.
    """
    image = _checked(path, image, np.float32, (3, 4))
    if half:
        with np.errstate(over="ignore"):  # what overflows becomes inf, and is refused below
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
            OpenEXR.File(header, channels).write(os.fsencode(temporary))
        except RuntimeError as error:
            raise OSError(str(error)) from error


def load_exr(path: str | os.PathLike) -> NDArray[np.float32]:
    """Reads the channels R, G, B and, where there is one, A of an EXR.

    Returns:
      [H, W, 3 or 4] linear float32.

    Raises:
      InputError: a missing or damaged file, or one without R, G and B.
    """
    check_file(path)
    try:
        with _quiet():
            _check_exr_size(path)
            with OpenEXR.File(os.fsencode(path), separate_channels=True) as file:
                channels = {name: channel.pixels for name, channel in file.channels().items()}
        if {"R", "G", "B"} <= channels.keys():
            chosen = [channels[name] for name in "RGBA" if name in channels]
            return np.stack(chosen, -1).astype(np.float32)
    except (RuntimeError, TypeError, ValueError, LookupError, MemoryError) as error:
        raise InputError(f"{path}: not a readable EXR, damaged or cut short; replace it") from error
    raise InputError(f"{path}: expected channels R, G, B, found {listed(channels)}; save it as RGB")


def _check_exr_size(path: str | os.PathLike) -> None:
    """Raises a ValueError for a file too small for the images that its headers declare."""
    num_values = 0
    with OpenEXR.File(os.fsencode(path), header_only=True) as file:
        for header in (part.header for part in file.parts):
            low, high = (np.asarray(corner, np.int64) for corner in header["dataWindow"])
            num_values += int(np.prod(high - low + 1)) * len(header["channels"])
    if not 0 < 2 * num_values <= max(_MAX_EXR_RATIO * os.path.getsize(path), _SMALL_EXR):
        raise ValueError("the file is too small for its image")


_MAX_EXR_RATIO = 1100
"""Most bytes of pixels that a byte of an EXR stands for; deflate reaches 1032."""

_SMALL_EXR = 2**28
"""Bytes of pixels that are read in any case, because lossy compression may exceed that ratio."""

_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards what OpenEXR prints about a damaged file, because our message is one line.

    Its C part writes to the descriptor of stderr, and its Python part to `sys.stdout`.
    """
    with (
        _stderr_lock,
        open(os.devnull, "wb") as nothing,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        kept = os.dup(2)
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


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
    check_file(path)
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = iio.imread(path, extension=".png", plugin="pillow")
    except Exception as error:  # Pillow's readers raise many types
        raise InputError(f"{path}: not a readable PNG, damaged or cut short; replace it") from error
    return _checked(path, image, np.uint8, (3, 4))


class VideoWriter:
    """Writes an H.264 MP4 that common players show, one frame at a time.

    A context manager: the file appears, complete, when the block is left, and not at all when the
    block raises an error. H.264 wants even sizes: an odd last row or column is doubled.

        with VideoWriter("turning.mp4", fps=24) as video:
            for frame in frames:
                video.add(frame)

    Raises:
      InputError: a frame of another shape or dtype, no frames at all, or an unwritable path.
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        """Writes nothing yet: the encoder starts with the first frame, which decides the size."""
        self._path, self._fps = path, fps
        self._shape: tuple[int, ...] = ()
        self._frames, self._discarded = 0, False
        self._encoder: Generator[None, NDArray[np.uint8] | None, None] | None = None

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Appends a frame, uint8 [H, W, 3]; after `discard` it is ignored."""
        if self._discarded:
            return
        frame = _checked(f"{self._path}: frame {self._frames}", frame, np.uint8, (3,))
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise InputError(
                f"{self._path}: frame {self._frames}: expected the first frame's shape "
                f"{self._shape}, found {frame.shape}; give every frame one size"
            )
        height, width, _ = frame.shape
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._encoder is None:
            self._encoder = _encoder(self._path, self._fps, *frame.shape[:2])
            next(self._encoder)
        self._encoder.send(frame)
        self._frames += 1

    def discard(self) -> None:
        """Gives the video up: no file appears."""
        self._discarded = True
        if self._encoder is not None:
            self._encoder.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
        if self._discarded:
            return
        if self._encoder is None:
            raise InputError(f"{self._path}: a video needs at least one frame, found none")
        with contextlib.suppress(StopIteration):
            self._encoder.send(None)


def _encoder(
    path: str | os.PathLike, fps: float, height: int, width: int
) -> Generator[None, NDArray[np.uint8] | None, None]:
    """Runs ffmpeg on the frames that it is sent; None completes the file, `close` gives it up."""
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
    with atomic_path(path) as temporary:
        output = [*_VIDEO_OPTIONS, "-f", "mp4", str(temporary)]
        command = [get_ffmpeg_exe(), "-y", "-v", "error", *source, *output]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            # An encoder that ends early breaks the pipe; its own message says why.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                while (frame := (yield)) is not None:
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
