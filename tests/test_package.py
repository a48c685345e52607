"""The sdist and the wheel: what they bring, installed in an environment outside the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import rf_jax
from rf_jax.config_files import config_names
from rf_jax.images.files import load_exr

ROOT = Path(__file__).parents[1]
NOT_SOURCES = (".*", "__pycache__", "*.egg-info", "build", "dist", "output", "workdirs")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository, in which building leaves its files."""
    folder = tmp_path_factory.mktemp("package") / "source"
    ignored = shutil.ignore_patterns(*NOT_SOURCES)
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def built(source):
    """The folder of the sdist and of the wheel, which is made from the sdist."""
    pytest.importorskip("build", reason="building needs the extra test")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", source.parent, source]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return source.parent


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder of programs of a fresh environment with the wheel.

    It borrows the packages that the wheel depends on from the environment of the tests.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", wheel]
    pip += ["--no-deps", "--no-index"]
    result = subprocess.run(pip, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "bin"


def test_the_sdist_brings_everything(source, built):
    (sdist,) = built.glob("*.tar.gz")
    prefix = f"rf_jax-{rf_jax.__version__}/"
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(prefix) for name in archive.getnames()}
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert {str(path) for path in files if "rf_jax.egg-info" not in path.parts} <= names


def test_the_wheel_brings_the_package_and_its_files(source, built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        metadata = archive.read(metadata).decode()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"rf_jax"}
    files = {str(p.relative_to(source)) for p in (source / "rf_jax").rglob("*") if p.is_file()}
    assert files | {f"rf_jax/configs/{name}.py" for name in config_names()} <= names
    for line in ("Author: The rf_jax authors", "Provides-Extra: cuda13", "Home-page: https://"):
        assert line in metadata


def test_the_installed_command_renders(installed, tmp_path):
    command = [installed / "rf-jax-render", "blue_room", "--output_dir", "images"]
    run = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "") and "blue_room: PSNR" in run.stdout
    assert load_exr(tmp_path / "images" / "blue_room_view_0.exr").shape == (64, 64, 3)


IN_THE_ENVIRONMENT = """
import importlib.metadata, sys
import rf_jax
from rf_jax.config_files import config_names, load_config_file
from rf_jax.datagen.config import DataConfig
from rf_jax.training.config import TrainingConfig

for name in config_names():
    load_config_file(DataConfig if name.startswith("data_") else TrainingConfig, name)
print(rf_jax.__file__, *config_names())
for script in importlib.metadata.distribution("rf_jax").entry_points:
    sys.argv = [script.name, "--help"]
    try:
        script.load()()
    except SystemExit as end:
        assert not end.code
"""


def test_installed_commands_and_configurations_go_by_name(installed, tmp_path):
    run = subprocess.run(
        [installed / "python", "-c", IN_THE_ENVIRONMENT],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    file, *names = run.stdout.splitlines()[0].split()
    assert Path(file).is_relative_to(installed.parent) and names == config_names()
    for name in ("render", "train", "convert", "data", "evaluate"):
        assert f"\nusage: rf-jax-{name} [-h] [--version] " in run.stdout
        assert (installed / f"rf-jax-{name}").is_file()
