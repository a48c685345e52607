"""The images of glTF textures, and their mean over triangles."""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from rf_jax.errors import InputError, one_line, prefix_errors
from rf_jax.scene.gltf.file import GltfFile, item
from rf_jax.scene.gltf.schema import Sampler, TextureInfo, TextureTransform

MAX_PIXELS = 2**26
"""Most pixels of an image (8,192 x 8,192)."""

MAX_SIDE = 2048
"""Images with longer sides are made smaller first: triangles need means only."""

KEPT_BYTES = 2**29
"""Of decoded images, those that were used last stay in memory: six of the largest, or many small
ones. Materials that take turns need not decode theirs anew."""

FINEST, MOST_SAMPLES = 4, 64
"""Least and largest number of parts that the edges of a textured triangle are divided into. Where
parts are larger than texels, they read a smaller image of means."""

_MIRROR, _CLAMP = 33648, 33071


class SampledTexture(NamedTuple):
    """A texture as a material uses it.

    Attributes:
      levels: images [h, w, 4], linear float32, each half as large as the one before.
      uv_set: the number of the texture coordinates.
      transform: applied to the texture coordinates.
      sampler: how the image continues beyond its edges.
    """

    levels: tuple[np.ndarray, ...]
    uv_set: int
    transform: TextureTransform
    sampler: Sampler


class Textures:
    """The images of a file, of which some stay decoded."""

    def __init__(self, file: GltfFile):
        self._file = file
        self._kept: dict[tuple[int, bool], tuple[np.ndarray, ...]] = {}  # last used, last

    def sampled(self, info: TextureInfo | None, is_color: bool, where: str):
        """A texture as a material uses it; None for none, and for one whose image is not named.

        Args:
          info: what the material says.
          is_color: whether the image is sRGB, as colours are.
          where: the path of `info` in the document, for messages.

        Raises:
          InputError: an image is missing, damaged or too large.
        """
        if info is None:
            return None
        texture = item(self._file.document.textures, info.index, where)
        webp = texture.extensions.EXT_texture_webp
        source = texture.source if webp is None else webp.source
        if source is None:
            return None
        sampler = Sampler()
        if texture.sampler is not None:
            sampler = item(self._file.document.samplers, texture.sampler, f"{where}.sampler")
        transform = info.extensions.KHR_texture_transform or TextureTransform()
        uv_set = info.texCoord if transform.texCoord is None else transform.texCoord
        return SampledTexture(self._levels(source, is_color), uv_set, transform, sampler)

    def _levels(self, source: int, is_color: bool) -> tuple[np.ndarray, ...]:
        key = source, is_color
        self._kept[key] = self._kept.pop(key, None) or self._read_levels(*key)
        sizes = {kept: sum(x.nbytes for x in levels) for kept, levels in self._kept.items()}
        excess = sum(sizes.values()) - KEPT_BYTES
        for kept, size in sizes.items():
            if excess <= 0 or kept == key:
                break
            del self._kept[kept]
            excess -= size
        return self._kept[key]

    def _read_levels(self, source: int, is_color: bool) -> tuple[np.ndarray, ...]:
        with prefix_errors(f"images[{source}]"):
            image = item(self._file.document.images, source, "image")
            if image.bufferView is not None:
                data = bytes(self._file.view(image.bufferView, "bufferView"))
            elif image.uri is not None:
                data = self._file.external(image.uri)
            else:
                raise InputError("has neither a uri nor a bufferView")
            level = decoded(data, is_color)
        levels = [level]
        while max(level.shape[:2]) > 1:
            level = halved(level)
            levels.append(level)
        return tuple(levels)


def decoded(data: bytes, is_color: bool) -> np.ndarray:
    """An image as linear float32 values [h, w, 4], h and w up to `MAX_SIDE`; read with 8 bits.

    Args:
      data: a PNG, JPEG or WebP file.
      is_color: whether its first three channels are sRGB.

    Raises:
      InputError: it is none of these, damaged, or larger than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images are refused below
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"expected at most {MAX_PIXELS:,} pixels, found {width}x{height}")
            if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip to 8
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert("RGBA"))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("expected a PNG, JPEG or WebP image, found something else") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise InputError(f"expected a PNG, JPEG or WebP image ({one_line(error, 100)})") from error
    values = np.arange(256) / 255
    tables = [srgb_to_linear(values) if is_color else values] * 3 + [values]
    block = -(-max(height, width) // MAX_SIDE)
    rows = range(0, height, block)
    return np.stack([_mean_row(pixels[start : start + block], tables, block) for start in rows])


def _mean_row(rows: np.ndarray, tables: list[np.ndarray], block: int) -> np.ndarray:
    """The linear means [w, 4] of square blocks in a few rows of 8-bit pixels."""
    starts = np.arange(0, rows.shape[1], block)
    counts = len(rows) * np.diff([*starts, rows.shape[1]])
    channels = [
        np.add.reduceat(table[rows[..., i]].sum(axis=0), starts) / counts
        for i, table in enumerate(tables)
    ]
    return np.stack(channels, axis=-1).astype(np.float32)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Linear values of sRGB ones in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def halved(image: np.ndarray) -> np.ndarray:
    """The means of 2x2 pixels; along an odd side the last pixel counts twice."""
    for axis in (0, 1):
        if image.shape[axis] > 1:
            last = image.take([-1], axis)
            image = np.concatenate([image, last], axis) if image.shape[axis] % 2 else image
            even = np.arange(0, image.shape[axis], 2)
            image = (image.take(even, axis) + image.take(even + 1, axis)) / 2
    return image


def barycentric_grid(parts: int) -> np.ndarray:
    """The centres [parts^2, 3] of the equal triangles that divide a triangle, barycentric."""
    i, j = np.indices((parts, parts)).reshape(2, -1)
    up, down = i + j < parts, i + j < parts - 1
    first = np.concatenate([i[up] + 1 / 3, i[down] + 2 / 3]) / parts
    second = np.concatenate([j[up] + 1 / 3, j[down] + 2 / 3]) / parts
    return np.stack([1 - first - second, first, second], axis=1)


def transformed(uvs: np.ndarray, transform: TextureTransform) -> np.ndarray:
    """Texture coordinates [..., 2] after `KHR_texture_transform`: scaled, turned, moved."""
    scaled = uvs * transform.scale
    cos, sin = math.cos(transform.rotation), math.sin(transform.rotation)
    u = cos * scaled[..., 0] + sin * scaled[..., 1]
    v = cos * scaled[..., 1] - sin * scaled[..., 0]
    return np.stack([u, v], axis=-1) + transform.offset


def longest_edges(texture: SampledTexture, uvs: np.ndarray) -> np.ndarray:
    """The longest edge [F] of triangles [F, 3, 2] on the finest image, in texels."""
    height, width = texture.levels[0].shape[:2]
    texels = transformed(uvs, texture.transform) * (width, height)
    return np.linalg.norm(texels - np.roll(texels, 1, axis=1), axis=-1).max(axis=1)


def look_up(texture: SampledTexture, uvs: np.ndarray, level: int) -> np.ndarray:
    """The texels [..., 4] at texture coordinates [..., 2] on one of the levels."""
    image = texture.levels[min(level, len(texture.levels) - 1)]
    uvs = transformed(uvs, texture.transform)
    wraps = texture.sampler.wrapS, texture.sampler.wrapT
    x, y = (
        _texel(uvs[..., axis], size, wrap)
        for axis, (size, wrap) in enumerate(zip(image.shape[1::-1], wraps, strict=True))
    )
    return image[y, x]


def _texel(coordinate: np.ndarray, size: int, wrap: int) -> np.ndarray:
    if wrap == _CLAMP:
        coordinate = np.clip(coordinate, 0, 1)
    elif wrap == _MIRROR:
        coordinate = 1 - np.abs(coordinate % 2 - 1)
    else:
        coordinate = coordinate % 1
    return np.minimum((coordinate * size).astype(np.int64), size - 1)
