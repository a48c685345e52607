"""What mesh files hold besides triangles is named, once."""

import json
import logging

import pytest
import trimesh

from rf_jax.scene import build_scene, load_scene, parse_scene_description
from rf_jax.scene.builder import SceneBuilder
from rf_jax.scene.ignored import ignored_content


def write_glb(path, **parts):
    """A cube whose file has these parts in its JSON."""
    content = trimesh.creation.box().export(file_type="glb")
    size = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + size])
    document |= parts
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    header = b"glTF" + (2).to_bytes(4, "little")
    header += (20 + len(text) + len(rest)).to_bytes(4, "little")
    path.write_bytes(header + len(text).to_bytes(4, "little") + b"JSON" + text + rest)
    return path


@pytest.fixture
def glb(tmp_path):
    camera = {"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}
    lights = {"KHR_lights_punctual": {"lights": [{"type": "point"}]}}
    parts = {"materials": [{}], "cameras": [camera] * 2, "extensions": lights}
    return write_glb(tmp_path / "cube.glb", **parts)


def test_glb(glb):
    assert ignored_content(glb) == "1 materials, 2 cameras, 1 lights"


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"cameras": 5},
        {"extensions": []},
        {"extensions": {"KHR_lights_punctual": {"lights": 1}}},
    ],
)
def test_glb_without_such_parts(tmp_path, parts):
    assert ignored_content(write_glb(tmp_path / "a.glb", **{"materials": []} | parts)) == ""


def test_obj(folder):
    path = folder / "a.obj"
    assert ignored_content(path) == ""
    path.write_text("mtllib my colours.mtl\nmtllib\n" + path.read_text() + "mtllib b.mtl\n")
    assert ignored_content(path) == "material file my colours.mtl, material file b.mtl"


def test_a_file_is_named_once(scene_dict, folder, glb, caplog):
    path = folder / "a.obj"
    path.write_text("mtllib a.mtl\n" + path.read_text())
    scene_dict["objects"]["again"] = scene_dict["objects"]["box"]
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # the frames of an animation
            load_scene(folder / "scene.json")
        SceneBuilder().add_mesh(glb).add_mesh(glb)
    assert [message.split("; ")[0] for message in caplog.messages] == [
        f"{path}: ignored: material file a.mtl",
        f"{glb}: ignored: 1 materials, 2 cameras, 1 lights",
    ]


def test_meshes_that_are_not_in_files_are_not_looked_for(scene_dict, folder):
    box = trimesh.creation.box()
    scene = build_scene(parse_scene_description(scene_dict), folder / "none", lambda path: box)
    assert len(scene.triangles) == 12
