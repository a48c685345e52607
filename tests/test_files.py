"""Temporary files of killed processes, folders that one process reserves, files that are read."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax.errors import MAX_LENGTH, InputError
from rf_jax.files import (
    atomic_path,
    check_file,
    locked,
    parse_json,
    read_bytes,
    remove_abandoned,
    temporary_folder,
)

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


def _pipe(folder):
    os.mkfifo(folder / "x")
    return folder / "x"


def _device(folder):
    (folder / "x").symlink_to("/dev/zero")
    return folder / "x"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_pipe, "expected a regular file, found a pipe or a device"),
        (_device, "expected a regular file, found a pipe or a device"),
        (lambda folder: folder, "expected a file, found a folder"),
        (lambda folder: folder / "x", "no such file; check the path"),
        (lambda folder: __file__ + "/x", "no such file; check the path"),
        (lambda folder: folder / ("x" * 300), "cannot be opened (File name too long)"),
        (lambda folder: "a\0b", "cannot be opened (embedded null byte)"),
        (lambda folder: "\ud800", "cannot be opened ('utf-8' codec"),
        (lambda folder: __file__, "expected at most 0 MiB, found 0 MiB"),
    ],
)
def test_what_is_not_opened(tmp_path, make, words):
    for read in (read_bytes, check_file):
        path = make(tmp_path)
        with pytest.raises(InputError) as error:
            read(path, 10)
        message = str(error.value)
        assert words in message and len(message) <= MAX_LENGTH and message.isprintable()
        (tmp_path / "x").unlink(missing_ok=True)


def test_nothing_stays_open(tmp_path):
    before = len(os.listdir("/dev/fd"))
    for path in (tmp_path, _device(tmp_path)):
        with pytest.raises(InputError):
            check_file(path)
    check_file(__file__)
    assert len(os.listdir("/dev/fd")) == before


@settings(max_examples=100)
@given(
    st.binary(max_size=30)
    | st.text('{}[]",:0eE+-. \\ua', max_size=60).map(str.encode)
    | st.integers(0, 4000).map(lambda n: b"[" * n + b"]" * n)
    | st.integers(0, 10**4).map(lambda n: b"1" * n)
)
def test_json_is_read_or_refused(data):
    try:
        parse_json(data)
    except InputError as error:
        assert str(error)
