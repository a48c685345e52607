"""The index of a dataset, which data generation writes and training and evaluation read."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rf_jax import schema
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path, parse_json, read_bytes
from rf_jax.schema import NonNegativeInt

INDEX_NAME = "index.jsonl"
"""File of one JSON object per scene, in the folder of the scenes' .h5 files."""

H5_FILES = "[!.]*.h5"
"""Pattern of a dataset's files; half-written files begin with a dot."""


MAX_INDEX_BYTES = 2**30
"""Largest index that is read: several million scenes."""

_ENTRY = {"file": str, "triangles": NonNegativeInt, "split": str}
"""The keys of a line that are read; it may have others."""


def write_index(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes the index of a folder, one line per scene.

    Args:
      folder: where the scenes' files are; made if missing.
      entries: one per scene, with at least the keys `file`, `triangles` and `split`.

    Raises:
      InputError: the index cannot be written.
    """
    with atomic_path(folder / INDEX_NAME) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def find_files(folder: Path, split: str | None) -> list[tuple[Path, int | None]]:
    """Finds the files of a split, and how many triangles each has.

    Args:
      folder: a folder of .h5 files. Without an index all of them belong to the split "train".
      split: "train", "val" or "test"; None for all files.

    Returns:
      pairs of a path and its number of triangles; the number is None without an index.

    Raises:
      InputError: the folder does not exist, or its index is damaged.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: expected a folder of .h5 files, found none")
    index = folder / INDEX_NAME
    if not index.exists():
        files = sorted(folder.glob(H5_FILES)) if split in (None, "train") else []
        return [(path, None) for path in files]
    rows = []
    for number, line in enumerate(read_bytes(index, MAX_INDEX_BYTES).splitlines(), 1):
        with prefix_errors(f"{index}: line {number}"):
            row = parse_json(line)
            if not isinstance(row, dict):
                raise InputError(f"expected an object with {', '.join(_ENTRY)}, found {row!r}")
            values = [schema.parse(hint, row.get(key), key) for key, hint in _ENTRY.items()]
            if split in (None, values[2]):
                rows.append((folder / values[0], values[1]))
    return rows
