"""The index of a dataset: what is written is found again, split by split."""

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
    "line", ["{", "[]", '{"file": "a.h5"}', '{"file": "a.h5", "split": "val"}']
)
def test_a_damaged_index(tmp_path, line):
    (tmp_path / "index.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"index\.jsonl: line 1: expected an object with file"):
        find_files(tmp_path, None)
    with pytest.raises(InputError, match=r"missing: expected a folder of \.h5 files"):
        find_files(tmp_path / "missing", None)
