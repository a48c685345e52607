"""HDF5 files from strangers: opened and read, or refused in one line, with bounded memory."""

import contextlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from rf_jax.errors import InputError, listed, one_line, prefix_errors
from rf_jax.files import check_file

MAX_BYTES = 2**32
"""Largest dataset that is read where its reader states no less: patches [N, 13, 32, 32] of 160,000
triangles in float16."""

_COMPRESSION = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF}
_FILTERS = _COMPRESSION | {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

_MAX_RATIO = 1032
"""Most bytes that one byte of a deflate stream stands for; LZF stands for fewer."""

_TRUSTED_CHUNK = 2**30 // _MAX_RATIO
"""Stored chunks up to this size unpack to at most 1 GiB; h5py's own choice of chunks is smaller."""


@contextlib.contextmanager
def opened_h5(path: str | Path) -> Iterator[h5py.File]:
    """Opens a file for reading; errors inside name the file.

    Raises:
      InputError: the file is missing, damaged, or too large for the memory.
    """
    check_file(path)
    with prefix_errors(str(path)):
        try:
            with h5py.File(path, "r") as file:
                yield file
        except InputError:
            raise
        except MemoryError as error:
            raise InputError("larger than the free memory; use a smaller file") from error
        except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
            # h5py raises all of these for damaged files
            raise InputError(f"not a complete HDF5 file ({one_line(error, 120)})") from error


def has_dataset(file: h5py.File, name: str) -> bool:
    """Whether there is something of that name; what a link points to is not opened."""
    return file.id.links.exists(name.encode())


def numeric_dataset(file: h5py.File, name: str, max_bytes: int = MAX_BYTES) -> h5py.Dataset:
    """Finds a dataset whose numbers can be read safely; nothing of it has been read yet.

    Virtual and external datasets are refused, because they read other files and can map themselves,
    which crashes libhdf5. What the dataset would take in memory is compared with what is stored.

    Args:
      file: an open file.
      name: name of the dataset, with the names of groups in front, separated by "/".
      max_bytes: as much as its reader can need. Compressed zeros take almost no room in a file.

    Raises:
      InputError: there is no such dataset, it does not hold integers or floating-point numbers, it
        is virtual or external, it holds less than it declares, or it is larger than `max_bytes`.
    """
    dataset = _linked(file, name)
    if not isinstance(dataset, h5py.Dataset):
        found = listed(file) or "none"
        raise InputError(f"{name}: missing or damaged dataset; the file has {found}")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise InputError(
            f"{name}: expected values within the file, found a virtual or external dataset; "
            "copy its values"
        )
    try:
        found = str(dataset.dtype)
        is_numeric = dataset.dtype.kind in "fiu" and dataset.shape is not None
    except TypeError:  # NumPy has no such type
        found, is_numeric = "another type", False
    if not is_numeric:
        raise InputError(f"{name}: expected an array of numbers, found {found}")
    _check_size(dataset, name, file.id.get_filesize(), max_bytes)
    return dataset


def _linked(file: h5py.File, name: str) -> h5py.HLObject | None:
    """The object of a name, or None; links that lead elsewhere are refused and not followed."""
    found = file
    for part in name.split("/"):
        if not isinstance(found, h5py.Group):
            return None
        links = found.id.links
        encoded = part.encode()
        if not links.exists(encoded):
            return None
        if links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
            raise InputError(f"{name}: expected values here, found a link; copy its values")
        found = found[part]
    return found


def _check_size(dataset: h5py.Dataset, name: str, file_size: int, max_bytes: int) -> None:
    """Checks that what the dataset declares fits the memory, and what is stored in the file."""
    layout = dataset.id.get_create_plist()
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    if not set(filters) <= _FILTERS or len(_COMPRESSION & set(filters)) > 1:
        raise InputError(f"{name}: expected gzip, lzf or no compression, found another; use gzip")
    if len(set(filters)) < len(filters):
        raise InputError(f"{name}: expected to be compressed once; write it again")
    item = dataset.dtype.itemsize
    needed = item * max(dataset.size, math.prod(dataset.chunks or (0,)))
    stored = min(dataset.id.get_storage_size(), file_size)
    if needed > stored * (_MAX_RATIO if _COMPRESSION & set(filters) else 1):
        raise InputError(
            f"{name}: expected {list(dataset.shape)} values, found only {stored} bytes in the "
            "file; write it again"
        )
    if needed > max_bytes:
        raise InputError(
            f"{name}: expected at most {max_bytes >> 20:,} MiB, found {needed >> 20:,} MiB "
            f"({list(dataset.shape)})"
        )
    if _COMPRESSION & set(filters) and stored > _TRUSTED_CHUNK:
        _check_chunks(dataset, name, filters)


def _check_chunks(dataset: h5py.Dataset, name: str, filters: list[int]) -> None:
    """Refuses chunks that unpack to more than a chunk, whose whole HDF5 would keep in memory."""
    packed = [code for code in filters if code != h5py.h5z.FILTER_FLETCHER32]
    if packed[-1] not in _COMPRESSION:
        raise InputError(f"{name}: expected to be compressed last; write it again")
    limit = dataset.dtype.itemsize * math.prod(dataset.chunks) + 4  # a checksum has 4 bytes
    skipped = 1 << filters.index(packed[-1])
    chunks: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        if chunk.size <= _TRUSTED_CHUNK or chunk.filter_mask & skipped:
            continue
        if packed[-1] == h5py.h5z.FILTER_LZF:
            raise InputError(f"{name}: expected smaller chunks with lzf; use gzip")
        _, data = dataset.id.read_direct_chunk(chunk.chunk_offset)
        try:
            whole = len(zlib.decompressobj().decompress(data, limit + 1)) <= limit
        except zlib.error as error:
            raise InputError(f"{name}: a chunk is damaged; write it again") from error
        if not whole:
            raise InputError(f"{name}: a chunk unpacks to more than it declares; write it again")
