"""Files that appear whole or not at all, folders for one process, JSON that is read or refused."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rf_jax.errors import InputError, prefix_errors

_TEMPORARY = re.compile(r"\..*\.temporary-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(\..*)?")
"""Names of our temporary files: a hash of the machine's name, and the process that writes."""


@contextlib.contextmanager
def report_unwritable(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError inside into an InputError that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be written ({reason}); choose another path or free disk space"
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary file beside `path` to write to; success renames it to `path`.

    The temporary exists (empty) and keeps the suffix; the folder is made if missing. On any error
    the temporary is removed and what was at `path` stays. An OSError becomes an InputError.
    """
    path = Path(path)
    with report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path)
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


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yields a new folder beside a path, on the same file system, and removes it at the end."""
    folder = _temporary_beside(beside)
    folder.mkdir()
    try:
        yield folder
    finally:
        # Threads of Orbax may go on writing for a moment after an error.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def _temporary_beside(path: Path) -> Path:
    stem = path.stem[:50]  # so that the whole name is not too long
    owner = f"{_machine()}-{os.getpid()}"
    return path.parent / f".{stem}.temporary-{owner}-{secrets.token_hex(4)}{path.suffix}"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def remove_abandoned(folder: Path) -> None:
    """Removes what `atomic_path` and `temporary_folder` left in a folder.

    That are temporary files of processes of this machine that do not run any more, because they
    were killed.
    """
    for path in folder.glob(".*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] == _machine() and not _is_running(int(match[2])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Reserves a folder for this process until the block ends; makes it if it is missing.

    Raises:
      InputError: another process has reserved it, or it cannot be written.
    """
    with report_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another run is writing here") from error
        except OSError:
            pass  # some file systems of clusters have no locks
        yield


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file.

    Raises:
      InputError: the file cannot be read or is not UTF-8 JSON; the message names it.
    """
    with prefix_errors(str(path)):
        try:
            return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
        except FileNotFoundError:
            raise InputError("no such file") from None
        except OSError as error:
            raise InputError(f"cannot read the file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"expected UTF-8 text, found another byte at {error.start}") from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise InputError(f"not JSON at {where}: {error.msg}") from error
        except ValueError as error:  # an integer of thousands of digits
            raise InputError(f"cannot read the JSON value: {error}") from error
        except RecursionError as error:
            raise InputError("JSON nested too deeply") from error
