"""Keeping compiled programs between runs."""

import glob
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

import jax

_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '(.*?)'", re.DOTALL)
"""JAX's warning about an entry that it cannot read; it names the program, not the entry."""


def enable_compilation_cache() -> None:
    """Keeps compiled programs in `~/.cache/rf_jax`, or in the folder that JAX has been told.

    A folder that cannot be used gives one line of warning, and programs are not kept. A damaged
    entry is replaced.
    """
    folder = jax.config.jax_compilation_cache_dir
    try:
        if folder is None:
            folder = str(Path.home() / ".cache" / "rf_jax")
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        if "://" not in folder:  # JAX also writes to buckets
            _check_folder(Path(folder))
            warnings.showwarning = _show_or_remove
        jax.config.update("jax_compilation_cache_dir", folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        jax.config.update("jax_compilation_cache_dir", None)
        logging.getLogger(__name__).warning(
            "compiled programs are not kept (%s); name a folder in JAX_COMPILATION_CACHE_DIR", error
        )


def _check_folder(folder: Path) -> None:
    """Makes the folder; OSError if files cannot be written to it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")


_show_warning = warnings.showwarning


def _show_or_remove(message: Warning | str, *arguments: Any, **options: Any) -> None:
    """Shows a warning as before, but removes the entries that JAX warns about instead.

    JAX writes no entry over a damaged one, such as that of a process that was killed while it wrote
    it. Once it is removed, JAX compiles the program and keeps it.
    """
    damaged = _DAMAGED.match(str(message))
    folder = jax.config.jax_compilation_cache_dir
    if damaged is None or folder is None:
        return _show_warning(message, *arguments, **options)
    for path in Path(folder).glob(f"{glob.escape(damaged[1])}-*"):
        path.unlink(missing_ok=True)
