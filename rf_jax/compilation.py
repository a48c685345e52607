"""Keeping compiled programs between runs."""

import logging
import os
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Keeps compiled programs in `~/.cache/rf_jax`, or in the folder that JAX has been told.

    A folder that cannot be used gives one line of warning, and programs are not kept.
    """
    folder = jax.config.jax_compilation_cache_dir
    try:
        if folder is None:
            folder = str(Path.home() / ".cache" / "rf_jax")
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        if "://" not in folder:  # JAX also writes to buckets
            _check_folder(Path(folder))
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
