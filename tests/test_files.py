"""Temporary files of killed processes, and folders that one process reserves."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from rf_jax.errors import InputError
from rf_jax.files import atomic_path, locked, remove_abandoned, temporary_folder

KILLED = """
import os, pathlib, signal, sys
from rf_jax.files import atomic_path, temporary_folder

folder = pathlib.Path(sys.argv[1])
with atomic_path(folder / "video.mp4") as path, temporary_folder(folder / "weights") as other:
    path.write_text("half")
    (other / "inside").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert result.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 2
    (tmp_path / ".video.mine.mp4").write_text("not ours")
    with atomic_path(tmp_path / "running.mp4") as path, temporary_folder(tmp_path / "w") as folder:
        remove_abandoned(tmp_path)
        left = {".video.mine.mp4", path.name, folder.name}
        assert set(os.listdir(tmp_path)) == left
    assert set(os.listdir(tmp_path)) == {".video.mine.mp4", "running.mp4"}


def test_temporary_names_fit_wherever_the_name_fits(tmp_path):
    with atomic_path(tmp_path / ("x" * 251 + ".txt")) as path:
        path.write_text("")
    assert len(os.listdir(tmp_path)) == 1


def _is_refused(folder, queue):
    try:
        with locked(folder):
            queue.put(False)
    except InputError as error:
        queue.put("another run is writing here" in str(error))


def test_a_folder_is_reserved_for_one_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with locked(tmp_path / "new"):
        context.Process(target=_is_refused, args=(tmp_path / "new", queue)).start()
        assert queue.get(timeout=100) is True
    context.Process(target=_is_refused, args=(tmp_path / "new", queue)).start()
    assert queue.get(timeout=100) is False


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="below: cannot be written"),
        locked(tmp_path / "file/below"),
    ):
        pass
