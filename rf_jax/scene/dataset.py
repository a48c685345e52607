"""The index of a dataset, `index.jsonl`: datagen writes it, training and evaluation read it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rf_jax.errors import InputError
from rf_jax.files import atomic_path

INDEX_NAME = "index.jsonl"


def write_index(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes one scene per line; entries have at least `file`, `triangles` and `split`."""
    with atomic_path(folder / INDEX_NAME) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def find_files(folder: Path, split: str | None) -> list[tuple[Path, int | None]]:
    """Files of a split and their numbers of triangles, where an index.jsonl tells these.

    Args:
      folder: of .h5 files.
      split: "train", "val" or "test"; None: all. Without an index all are of "train".

    Raises:
      InputError: no such folder, a damaged index.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of .h5 files, found none")
    index = folder / INDEX_NAME
    if not index.is_file():
        files = sorted(folder.glob("*.h5")) if split in (None, "train") else []
        return [(path, None) for path in files]
    rows = []
    for number, line in enumerate(index.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            if split in (None, row["split"]):
                rows.append((folder / row["file"], int(row["triangles"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{index}: line {number}: expected an object with file, triangles and split, "
                f"found {line[:80]!r}"
            ) from error
    return rows
