"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from rf_jax.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary file beside `path` to write to; success renames it to `path`.

    The temporary exists (empty) and keeps the suffix; the folder is made if missing. On any error
    the temporary is removed and what was at `path` stays. An OSError becomes an InputError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            # Some writers put a file of their own here that only its owner can read.
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be written ({reason}); choose another path or free disk space"
        ) from error
