import json

import pytest

from rf_jax.errors import InputError
from rf_jax.scene import find_scene_files, load_scene


def test_natural_order(tmp_path):
    for name in ("frame_10", "frame_2", "frame_1", "a1b20", "a1b3", "10", "9"):
        (tmp_path / f"{name}.h5").touch()
    (tmp_path / "frame_3.json").touch()
    names = [path.stem for path in find_scene_files(tmp_path)]
    assert names == ["9", "10", "a1b3", "a1b20", "frame_1", "frame_2", "frame_10"]


def test_a_file_stands_for_itself(tmp_path):
    path = tmp_path / "scene.json"
    path.touch()
    assert find_scene_files(path) == [path]


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match=r"expected \*\.h5 files in this folder, found none"):
        find_scene_files(tmp_path)
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_scene_files(tmp_path / "missing")


@pytest.mark.parametrize("name", ["scene.obj", "scene", "scene.h5.gz"])
def test_other_endings(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a scene file ending in \.json, \.h5 or \.hdf5"):
        load_scene(tmp_path / name)


def test_meshes_are_relative_to_the_scene(scene_dict, folder, monkeypatch):
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    monkeypatch.chdir("/")
    assert len(load_scene(folder / "scene.json").triangles) == 4
