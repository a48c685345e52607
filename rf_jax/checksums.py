"""Checksums of the files of weights, so that damage is noticed.

A flipped bit on a disk or in a copy would otherwise load as another network. The format is that of
`sha256sum`, so `sha256sum --check SHA256SUMS` checks the same.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rf_jax.errors import InputError
from rf_jax.files import atomic_path, read_bytes

CHECKSUMS_NAME = "SHA256SUMS"

_MAX_BYTES = 2**20
"""Largest list of checksums that is read; a line has about 100 bytes."""


def write_checksums(folder: Path, pattern: str = "**/*") -> None:
    """Writes `SHA256SUMS` for the files in a folder that match a glob pattern."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    with atomic_path(folder / CHECKSUMS_NAME) as path:
        path.write_text("".join(lines))


def verify_checksums(folder: Path) -> None:
    """Checks the files of a folder; one without `SHA256SUMS` (an older one) is accepted.

    Raises:
      InputError: names a file that is missing or holds other bytes than were written.
    """
    sums = folder / CHECKSUMS_NAME
    if not sums.is_file():
        return
    lines = read_bytes(sums, _MAX_BYTES).decode(errors="replace").splitlines()
    for line in dict.fromkeys(lines):
        expected, _, name = line.partition("  ")
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{sums}: expected files of this folder, found {name!r}")
        try:
            found = _digest(path) if path.is_file() else None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if found is None:
            raise InputError(f"{path}: missing, but {CHECKSUMS_NAME} lists it; use another copy")
        if found != expected:
            raise InputError(
                f"{path}: damaged: its bytes are not those that were written ({CHECKSUMS_NAME}); "
                "use another copy"
            )


def names_digest(files: Sequence[Path]) -> str:
    """The number of files and a digest of their names, in their order."""
    names = "\n".join(path.name for path in files)
    return f"{len(files)} files with digest {hashlib.sha256(names.encode()).hexdigest()[:8]}"


def arrays_digest(arrays: Any) -> str:
    """A digest of the values of a tree of arrays."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return f"values with digest {digest.hexdigest()[:8]}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
