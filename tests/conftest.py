"""Tests run on a CPU that shows 8 devices, and keep compiled programs to themselves."""

import atexit
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and subprocesses share the folder
    CACHE = tempfile.mkdtemp(prefix="rf_jax_tests_")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import pytest

from rf_jax.models import VARIANTS
from rf_jax.weights.random_weights import random_variables


@pytest.fixture(scope="session")
def config():
    """A network small enough to compile in a second or two."""
    return VARIANTS["testing"]


@pytest.fixture(scope="session")
def variables(config):
    return random_variables(config, seed=0)


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs a script in an empty folder: its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(str(Path(__file__).parents[1] / script), run_name="__main__")
            status = 0
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def refused(command):
    """Runs a script on bad input: its one line on stderr."""

    def run(script, *arguments):
        status, out, err = command(script, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return run
