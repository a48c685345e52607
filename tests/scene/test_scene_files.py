import json

import pytest

from rf_jax.errors import InputError
from rf_jax.scene import bundled_scene, find_scene_files, load_scene


def test_natural_order(tmp_path):
    for name in ("frame_10", "frame_2", "frame_1", "a1b20", "a1b3", "10", "9"):
        (tmp_path / f"{name}.h5").touch()
    (tmp_path / "config.json").touch()  # a generated dataset has one
    (tmp_path / ".frame_3.0a1b.h5").touch()  # a run that was killed may leave one
    names = [path.stem for path in find_scene_files(tmp_path)]
    assert names == ["9", "10", "a1b3", "a1b20", "frame_1", "frame_2", "frame_10"]


def test_a_file_stands_for_itself(tmp_path):
    path = tmp_path / "scene.json"
    path.touch()
    assert find_scene_files(path) == [path]


def test_json_frames(tmp_path):
    for name in ("frame_10.json", "frame_9.json", "frame_9_truth_view_0.exr", "box.obj"):
        (tmp_path / name).touch()
    assert [path.stem for path in find_scene_files(tmp_path)] == ["frame_9", "frame_10"]


def test_frames_of_both_kinds(tmp_path):
    (tmp_path / "frame_1.json").touch()
    (tmp_path / "frame_2.h5").touch()
    with pytest.raises(InputError, match=r"expected \*\.h5 or \*\.json files, found both"):
        find_scene_files(tmp_path)


def test_bundled_names():
    assert find_scene_files("cornell_box") == [bundled_scene("cornell_box")]
    frames = find_scene_files("turning_block")
    assert frames == sorted(bundled_scene("turning_block").glob("*.json")) and len(frames) == 24


def test_nothing_to_find(tmp_path):
    message = r"expected \*\.h5 or \*\.json files in this folder, found none"
    with pytest.raises(InputError, match=message):
        find_scene_files(tmp_path)
    with pytest.raises(InputError, match=r"missing: no such scene file or folder, nor .*blue_room"):
        find_scene_files(tmp_path / "missing")


@pytest.mark.parametrize("name", ["scene.obj", "scene", "scene.h5.gz"])
def test_other_endings(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a scene file ending in \.json, .*\.glb"):
        load_scene(tmp_path / name)


def test_meshes_are_relative_to_the_scene(scene_dict, folder, monkeypatch):
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    monkeypatch.chdir("/")
    assert len(load_scene(folder / "scene.json").triangles) == 4
