"""Scene descriptions: what is refused and where, and that files are read and written."""

import copy
import json

import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_scene_description, parse_scene_description
from rf_jax.scene.description import save_scene_description

REMOVE = object()


def _set(value, path, new):
    """A copy of a JSON value with the item at `path` (a tuple of keys) set or removed."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is REMOVE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


BOX = ("objects", "box")
MATERIAL = (*BOX, "material")
CAMERA = ("cameras", 0)


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (("colour",), 1, ["colour: unknown key"]),
        ((*BOX, "mesh_pth"), "a", ["objects.box.mesh_pth: unknown key", "'mesh_path'"]),
        ((*MATERIAL, "roughnes"), 1, ["objects.box.material.roughnes", "'roughness'"]),
        (("cameras",), REMOVE, ["cameras: missing key"]),
        ((*MATERIAL, "diffuse"), REMOVE, ["objects.box.material.diffuse: missing key"]),
        ((*CAMERA, "fov"), REMOVE, ["cameras[0].fov: missing key"]),
        (("objects",), {}, ["objects: ", "at least one", "found {}"]),
        (("cameras",), [], ["cameras: ", "at least one", "found []"]),
        (BOX, None, ["objects.box: expected a JSON object, found null"]),
        ((*MATERIAL, "roughness"), 1.01, ["material.roughness: ", "[0, 1], found 1.01"]),
        ((*MATERIAL, "diffuse", 1), -0.1, ["material.diffuse[1]: expected a number >= 0"]),
        ((*MATERIAL, "specular", 0), -1, ["material.specular[0]: ", ">= 0, found -1"]),
        ((*MATERIAL, "emissive", 2), -5, ["material.emissive[2]: ", ">= 0, found -5"]),
        ((*MATERIAL, "emissive"), [1, 1], ["emissive: expected a list of 3 numbers, found [1, 1]"]),
        ((*MATERIAL, "smooth_shading"), 1, ["smooth_shading: expected true or false, found 1"]),
        ((*MATERIAL, "random_diffuse_max"), 1.5, ["random_diffuse_max: ", "[0, 1], found 1.5"]),
        ((*MATERIAL, "random_diffuse_type"), "x", ['"per-triangle", "per-shading-group"', '"x"']),
        ((*MATERIAL, "rand_tri_diffuse_seed"), -1, ["rand_tri_diffuse_seed: ", "found -1"]),
        ((*MATERIAL, "rand_tri_diffuse_seed"), 1.5, ["seed: expected an integer", "found 1.5"]),
        ((*BOX, "remesh"), "no", ['objects.box.remesh: expected true or false, found "no"']),
        ((*BOX, "remesh_target_face_num"), 3, ["remesh_target_face_num: ", ">= 4, found 3"]),
        ((*BOX, "mesh_path"), 7, ["objects.box.mesh_path: expected a string, found 7"]),
        ((*BOX, "transform", "scale", 0), float("nan"), ["transform.scale[0]: ", "found NaN"]),
        ((*CAMERA, "position"), [1, 2, 3, 4], ["cameras[0].position: expected a list of 3"]),
        ((*CAMERA, "fov"), 180, ["cameras[0].fov: expected a number in (0, 180), found 180"]),
        ((*CAMERA, "fov"), 0, ["cameras[0].fov: ", "found 0"]),
        (("version",), "2.0", ["version: expected a string of the form 1.x", '"2.0"']),
        (("version",), 1.0, ["version: expected a string of the form 1.x, found 1.0"]),
        (("scene_name",), None, ["scene_name: expected a string, found null"]),
    ],
    ids=lambda value: str(value[-1])[:30] if isinstance(value, tuple) else "",
)
def test_bad_descriptions(scene_dict, path, new, words):
    with pytest.raises(InputError) as error:
        parse_scene_description(_set(scene_dict, path, new))
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 200


def test_defaults_and_types(scene_dict):
    description = parse_scene_description(scene_dict)
    box = description.objects["box"]
    assert box.transform.normalize is True and box.remesh is False
    assert box.remesh_target_face_num == 2048
    assert box.material.rand_tri_diffuse_seed is None
    assert box.material.random_diffuse_type == "per-shading-group"
    assert box.material.random_diffuse_max == 1.0
    fov = description.cameras[0].fov
    assert fov == 40 and isinstance(fov, float)


def test_a_saved_file_is_the_same_description(scene_dict, tmp_path):
    description = parse_scene_description(scene_dict)
    save_scene_description(description, tmp_path / "new" / "scene.json")
    assert load_scene_description(tmp_path / "new" / "scene.json") == description


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.10.3"])
def test_versions(scene_dict, version):
    assert parse_scene_description(scene_dict | {"version": version}).version == version


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"a": 1,\n  b}', "line 2, column 3"),
        (b"", "line 1, column 1"),
        (b"[1]", "expected a JSON object, found [1]"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "expected numbers of at most 100 digits in JSON, found 10000"),
        (b'{"a": {"x": 1, "y": 2, "x": 3}}', "expected keys that differ, found 'x' 2 times"),
        (b"[" * 33 + b"]" * 33, "nested too deeply: expected at most 32 levels"),
        (b'{"' + b"k" * 10**6 + b'": 1}', "kkk ... kkk"),
        (b'{"\\u001b[31m\\u202e": 1}', '"\\u001b[31m\\u202e": unknown key'),
        (b" " * (2**24 + 1), "expected at most 16 MiB, found 16 MiB"),
    ],
)
def test_bad_files(tmp_path, content, words):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_scene_description(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)
    assert len(str(error.value)) <= 300 and str(error.value).isprintable()


def test_an_object_named_twice(scene_dict, tmp_path):
    box = json.dumps(scene_dict["objects"]["box"])
    text = json.dumps(scene_dict).replace('"objects": {', f'"objects": {{"box": {box}, ')
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="expected keys that differ, found 'box' 2 times"):
        load_scene_description(tmp_path / "a.json")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(InputError, match="expected a file, found a folder"):
        load_scene_description(tmp_path)


def test_reads_a_file(scene_dict, tmp_path):
    path = tmp_path / "scene.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(scene_dict).encode())
    assert load_scene_description(path) == parse_scene_description(scene_dict)
