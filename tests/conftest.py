"""Tests run on a CPU that shows 8 devices, and keep compiled programs to themselves."""

import atexit
import itertools
import os
import runpy
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Small programs run once or twice: most of the time goes into compiling them.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and subprocesses share the folder
    CACHE = tempfile.mkdtemp(prefix="rf_jax_tests_")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.0"

import h5py
import hypothesis
import jax
import numpy as np
import pytest

from rf_jax.images.lpips import VGG_LAYERS
from rf_jax.models import VARIANTS
from rf_jax.weights.random_weights import random_variables

# The same examples in every run, and no time limits: other programs may keep the processor busy.
hypothesis.settings.load_profile("ci")

# A shell starts what runs in the background deaf to Ctrl-C, and so would be the tests' commands.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def optimizations():
    """Programs are compiled as users have them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def hopper():
    """Kernels in Triton are lowered for an H100, which newer JAX asks the current mesh for."""
    device = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("device",), auto, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        yield


@pytest.fixture(scope="session")
def config():
    """A network small enough to compile in a second or two."""
    return VARIANTS["testing"]


@pytest.fixture(scope="session")
def variables(config):
    return random_variables(config, seed=0)


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory):
    """A folder of random weights in the layout of lpips-j: the real ones need a network."""
    folder = tmp_path_factory.mktemp("lpips")
    rng = np.random.default_rng(0)
    with h5py.File(folder / "vgg16_weights.h5", "w") as file:
        for block, channels in VGG_LAYERS.items():
            for i, (fan_in, out) in enumerate(itertools.pairwise(channels), 1):
                weight = rng.normal(0, (2 / (9 * fan_in)) ** 0.5, (3, 3, fan_in, out))
                file[f"conv{block}_{i}/weight"] = weight.astype(np.float32)
                file[f"conv{block}_{i}/bias"] = np.zeros(out, np.float32)
    with h5py.File(folder / "lpips_lin.h5", "w") as file:
        for i, channels in enumerate(VGG_LAYERS.values()):
            shape = (1, 1, channels[-1], 1)
            file[f"lin{i}"] = rng.uniform(0, 1, shape).astype(np.float32)
    return folder


@pytest.fixture
def interpret_kernels(monkeypatch):
    """interpret_kernels(f, *args) runs f of a module of Mosaic GPU kernels on the CPU."""
    from tests.mosaic_interpreter import interpreter  # skips the test where JAX has none

    with interpreter(monkeypatch) as run:
        yield run


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs a script (render.py) or module (rf_jax.evaluate) in an empty folder.

    Returns its exit status, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            if name.endswith(".py"):
                runpy.run_path(str(Path(__file__).parents[1] / name), run_name="__main__")
            else:
                with warnings.catch_warnings():
                    # Other tests have imported the module already, which does no harm here.
                    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
                    runpy.run_module(name, run_name="__main__", alter_sys=True)
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
