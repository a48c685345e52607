"""Keeping compiled programs between runs."""

from pathlib import Path

import jax

CACHE_FOLDER = Path.home() / ".cache" / "rf_jax"


def enable_compilation_cache() -> None:
    """Keeps compiled programs in `CACHE_FOLDER`, unless JAX has been told a folder already."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE_FOLDER))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
