"""The cache of compiled programs: entries that are damaged."""

import os
import subprocess
import sys

PROGRAM = """
import jax
from rf_jax.compilation import enable_compilation_cache

enable_compilation_cache()
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


def test_damaged_entries_are_replaced_without_a_word(tmp_path):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def entries():
        command = [sys.executable, "-c", PROGRAM]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (result.stdout, result.stderr) == ("7.0\n", "")
        return {path.name: path.stat().st_size for path in tmp_path.iterdir()}

    whole = entries()
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert whole and entries().keys() == whole.keys()
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 100
