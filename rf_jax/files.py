"""Files that appear whole or not at all, and JSON that is read or refused in one line."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rf_jax.errors import InputError, prefix_errors


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
