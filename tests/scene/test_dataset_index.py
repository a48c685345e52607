"""The index of a dataset: what is written is found again, split by split."""

import os
import re

import pytest

from rf_jax.errors import InputError
from rf_jax.scene.dataset import find_files, write_index


def test_files_of_a_split(tmp_path):
    entries = [
        {"file": "b.h5", "triangles": 7, "split": "train", "family": "box"},
        {"file": "a.h5", "triangles": 9, "split": "val"},
    ]
    write_index(tmp_path, entries)
    assert find_files(tmp_path, "train") == [(tmp_path / "b.h5", 7)]
    assert find_files(tmp_path, "val") == [(tmp_path / "a.h5", 9)]
    assert find_files(tmp_path, "test") == []
    assert len(find_files(tmp_path, None)) == 2


def test_without_an_index_all_files_are_for_training(tmp_path):
    for name in ("b.h5", "a.h5", ".half_written.h5", "note.txt"):
        (tmp_path / name).touch()
    expected = [(tmp_path / "a.h5", None), (tmp_path / "b.h5", None)]
    assert find_files(tmp_path, "train") == find_files(tmp_path, None) == expected
    assert find_files(tmp_path, "val") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON at line 1, column 2"),
        (b"[]", "expected an object with file, triangles, split, found []"),
        (b'{"file": "a.h5"}', "triangles: expected an integer >= 0, found null"),
        (b'{"file": 5, "triangles": 1, "split": "val"}', "file: expected a string, found 5"),
        (b'{"file": "a.h5", "triangles": Infinity, "split": "val"}', "triangles: expected an int"),
        (b'{"file": "a.h5", "triangles": 1, "split": ' + b"[" * 10**5, "JSON nested too deeply"),
        (b"\xff\xfe", "expected UTF-8 text, found another byte at 0"),
    ],
)
def test_a_damaged_index(tmp_path, line, words):
    (tmp_path / "index.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=rf"index\.jsonl: line 1: {re.escape(words)}"):
        find_files(tmp_path, None)


def test_no_folder(tmp_path):
    for name in ("missing", "x" * 300):
        with pytest.raises(InputError, match=r"expected a folder of \.h5 files, found none"):
            find_files(tmp_path / name, None)


def test_an_index_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "index.jsonl")
    with pytest.raises(InputError, match=r"index\.jsonl: expected a regular file, found a pipe"):
        find_files(tmp_path, None)
