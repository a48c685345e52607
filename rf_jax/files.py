"""Files that appear whole or not at all, folders for one process, and files that are read."""

import collections
import contextlib
import csv
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rf_jax.errors import InputError, one_line, prefix_errors

MAX_JSON_BYTES = 16 * 2**20
"""Largest JSON file that is read; a scene of 20,000 objects has about this size."""

MAX_JSON_DIGITS = 100
"""Largest number of digits in an integer."""

MAX_JSON_DEPTH = 32
"""Deepest nesting of lists and objects; a scene needs 5."""

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


def save_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows of the same keys, which become the first line."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def utf8_path(path: Path) -> Path:
    """The absolute path, for libraries that take names as UTF-8.

    Raises:
      InputError: the name has other bytes, or Python reads names as ASCII here.
    """
    path = path.resolve()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: expected a name in UTF-8; set PYTHONUTF8=1, or choose another folder"
        ) from error
    return path


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yields a new folder beside a path, on the same file system, and removes it at the end."""
    folder = _temporary_beside(beside)
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        _remove_for_good(folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _remove_for_good(folder: Path) -> None:
    """Removes a folder again and again for two seconds.

    Threads of Orbax go on writing for a moment after an error, and make the folder anew; nothing
    tells when they end.
    """
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


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


def open_file(path: str | os.PathLike, max_bytes: int | None = None) -> BinaryIO:
    """Opens a regular file for reading; readers of all kinds begin with this.

    A pipe or a device could be waited for forever or could never end, so both are refused.

    Args:
      path: of the file.
      max_bytes: largest size that is sensible for its kind; None for any.

    Raises:
      InputError: there is no such file, it is something else than a file, it cannot be opened, or
        it is larger than `max_bytes`; the message names it.
    """
    with prefix_errors(str(path)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError("no such file; check the path") from error
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot be opened ({reason}); check the path") from error
        if problem := _problem(os.fstat(descriptor), max_bytes):
            os.close(descriptor)
            raise InputError(problem)
        return open(descriptor, "rb")


def _problem(status: os.stat_result, max_bytes: int | None) -> str | None:
    """What is wrong with an open file; None if nothing is."""
    if stat.S_ISDIR(status.st_mode):
        return "expected a file, found a folder"
    if not stat.S_ISREG(status.st_mode):
        return "expected a regular file, found a pipe or a device"
    if max_bytes is not None and status.st_size > max_bytes:
        return f"expected at most {max_bytes >> 20} MiB, found {status.st_size >> 20} MiB"
    return None


def check_file(path: str | os.PathLike, max_bytes: int | None = None) -> None:
    """Checks a file as `open_file` does, for libraries that open the path themselves."""
    open_file(path, max_bytes).close()


def file_size(path: str | os.PathLike) -> int:
    """The size in bytes of a file, which is checked as `open_file` does."""
    with open_file(path) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: str | os.PathLike, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
      InputError: as `open_file`, or the file cannot be read.
    """
    with open_file(path, max_bytes) as file, prefix_errors(str(path)):
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            raise InputError(f"cannot be read ({one_line(error)})") from error


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file of at most `MAX_JSON_BYTES`.

    Raises:
      InputError: the file cannot be read, or as `parse_json`; the message names it.
    """
    data = read_bytes(path, MAX_JSON_BYTES)
    with prefix_errors(str(path)):
        return parse_json(data)


def parse_json(data: bytes) -> Any:
    """The value that a JSON text describes.

    Raises:
      InputError: it is not UTF-8 JSON, an object has a key twice, a number has more than
        `MAX_JSON_DIGITS` digits, or lists and objects are nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_distinct_keys, parse_int=_bounded_int
        )
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 text, found another byte at {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"not JSON at {where}: {error.msg}") from error
    except RecursionError as error:
        raise InputError("JSON nested too deeply") from error
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        containers = (x.values() if isinstance(x, dict) else x for x in level if _is_container(x))
        level = list(itertools.chain.from_iterable(containers))
    if any(map(_is_container, level)):
        raise InputError(f"JSON nested too deeply: expected at most {MAX_JSON_DEPTH} levels")
    return value


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key, count = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise InputError(
            f"expected keys that differ, found {one_line(key, 60)!r} {count} times in one JSON "
            "object; rename all but one"
        )
    return result


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_JSON_DIGITS:
        raise InputError(
            f"expected numbers of at most {MAX_JSON_DIGITS} digits in JSON, found {len(digits)}"
        )
    return int(digits)
