"""render.py and convert_weights.py as a user calls them, right and wrong."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from rf_jax.images.files import load_exr, load_png
from rf_jax.rendering import renderer as rendering
from rf_jax.scene import bundled_scene, load_scene, save_h5
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import save_hugging_face_folder

ROOT = Path(__file__).parents[1]
BLUE_ROOM = bundled_scene("blue_room")


@pytest.fixture
def render(command):
    return lambda *arguments: command("render.py", *arguments)


def assert_one_line_error(result, *parts):
    status, out, err = result
    assert status == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err


def test_without_arguments_it_renders_the_bundled_scene(render, tmp_path):
    status, out, _ = render()
    assert status == 0
    assert out.startswith("97 triangles, 1 views: loading")
    assert "the bundled network is small" in out
    image = load_exr(tmp_path / "output" / "cornell_box_view_0.exr")
    png = load_png(tmp_path / "output" / "cornell_box_view_0.png")
    assert image.shape == png.shape == (64, 64, 3)  # as its ground truth
    # Rounded, not truncated, and not gamma encoded.
    assert np.array_equal(png, np.rint(np.clip(image, 0, 1) * 255))


def small(*arguments):
    return (*arguments, "--resolution", 64, "--output_dir", "out")


def test_h5_gives_the_image_of_its_json(render, tmp_path):
    assert render(*small(BLUE_ROOM, "--save_h5"))[0] == 0
    from_json = load_exr(tmp_path / "out" / "scene_view_0.exr")
    assert render(*small(tmp_path / "out" / "scene.h5"))[0] == 0
    from_h5 = load_exr(tmp_path / "out" / "scene_view_0.exr")
    # Materials went through float16.
    np.testing.assert_allclose(np.log10(1 + from_h5), np.log10(1 + from_json), atol=5e-3)


def two_views(folder: Path) -> Path:
    scene = load_scene(BLUE_ROOM)
    twice = {
        name: np.concatenate([getattr(scene, name)] * 3)
        for name in ("camera_to_world", "fov_degrees")
    }
    twice["fov_degrees"] *= np.array([1, 0.9, 0.8], np.float32)
    save_h5(scene.replace(**twice), folder / "views.h5")
    return folder / "views.h5"


def test_views_are_chosen_and_batched(render, tmp_path):
    scene = two_views(tmp_path)
    assert render(*small(scene))[0] == 0
    alone = [load_exr(tmp_path / "out" / f"views_view_{view}.exr") for view in range(3)]
    shutil.rmtree(tmp_path / "out")
    assert render(*small(scene, "--views", "0,2", "--batch_size", 8))[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.exr"))
    assert names == ["views_view_0.exr", "views_view_2.exr"]
    assert not list((tmp_path / "out").glob("*.mp4"))  # it is one file
    for view in (0, 2):
        image = load_exr(tmp_path / "out" / f"views_view_{view}.exr")
        np.testing.assert_allclose(np.log10(1 + image), np.log10(1 + alone[view]), atol=1e-4)


def test_exact_attention_by_any_name_gives_one_image(render, tmp_path):
    images = {}
    arguments = ("blue_room", "--resolution", 32, "--output_dir", "out", "--attention")
    for attention in ("dot_product", "auto", "flash", "performer,auto"):
        status, out, _ = render(*arguments, attention)
        assert status == 0
        assert ("trained with exact attention" in out) == attention.startswith("performer")
        images[attention] = load_exr(tmp_path / "out" / "blue_room_view_0.exr")
    expected = images.pop("dot_product")
    far = images.pop("performer,auto")
    for name, image in images.items():
        error = np.linalg.norm(image - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{name}: {error}"
    assert np.linalg.norm(far - expected) > 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("tone_mapper", ["agx", "filmic", "pbr_neutral"])
def test_tone_mappers_change_the_png_only(render, tmp_path, tone_mapper):
    pngs, exrs = [], []
    for name in ("none", tone_mapper):
        assert render(*small("blue_room", "--tone_mapper", name))[0] == 0
        pngs.append(load_png(tmp_path / "out" / "blue_room_view_0.png"))
        exrs.append(load_exr(tmp_path / "out" / "blue_room_view_0.exr"))
    assert np.array_equal(*exrs) and not np.array_equal(*pngs)


def test_checkpoints_of_every_kind_give_the_same_image(
    render, command, tmp_path, config, variables
):
    save_hugging_face_folder(tmp_path / "torch", variables, config.to_dict())
    status, out, _ = command("convert_weights.py", tmp_path / "torch", tmp_path / "flax")
    assert status == 0 and "102,207 parameters" in out
    images = []
    for checkpoint in ("torch", "flax"):
        assert render(*small("blue_room", "--checkpoint", checkpoint))[0] == 0
        images.append(load_exr(tmp_path / "out" / "blue_room_view_0.exr"))
    assert np.array_equal(*images)
    back = ("--to_torch", tmp_path / "flax", tmp_path / "back")
    assert command("convert_weights.py", *back)[0] == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "torch" / name).read_bytes()


# --- bad input: scenes ---


def broken_json(tmp_path, *keys, value):
    """The bundled blue room with one value changed, beside its meshes."""
    folder = tmp_path / "scene"
    shutil.copytree(BLUE_ROOM.parent, folder)
    scene = json.loads(BLUE_ROOM.read_text())
    target = scene
    for key in keys[:-1]:
        target = target[key]
    if value is None:
        del target[keys[-1]]
    else:
        target[keys[-1]] = value
    (folder / "scene.json").write_text(json.dumps(scene))
    return folder / "scene.json"


CAMERA = ("cameras", 0)
FIRST = ("objects", next(iter(json.loads(BLUE_ROOM.read_text())["objects"])))


@pytest.mark.parametrize(
    ("keys", "value", "parts"),
    [
        (("surplus",), 1, ("scene.json", "surplus")),
        (("cameras",), None, ("scene.json", "cameras")),
        ((*FIRST, "material", "roughness"), "rough", ("material.roughness", '"rough"')),
        ((*FIRST, "material", "diffuse"), [-1, 0, 0], ("material.diffuse", "-1")),
        ((*FIRST, "mesh_path"), "none.obj", ("none.obj",)),
        ((*CAMERA, "fov"), 180, ("cameras[0].fov", "180")),
        (
            (*CAMERA, "look_at"),
            json.loads(BLUE_ROOM.read_text())["cameras"][0]["position"],
            ("same",),
        ),
        ((*CAMERA, "up"), [0, 0, 0], ("up",)),
    ],
)
def test_bad_descriptions(render, tmp_path, keys, value, parts):
    scene = broken_json(tmp_path, *keys, value=value)
    assert_one_line_error(render(*small(scene)), "scene.json", *parts)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("text", "part"),
    [("v 0 0 0\n", "faces"), ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "finite"), ("", "")],
)
def test_bad_meshes(render, tmp_path, text, part):
    scene = broken_json(tmp_path, *FIRST, "mesh_path", value="bad.obj")
    (scene.parent / "bad.obj").write_text(text)
    assert_one_line_error(render(*small(scene)), "bad.obj", part)


@pytest.mark.parametrize("name", ["missing.json", "missing.h5", "no_such_bundled_scene"])
def test_missing_scenes(render, name):
    assert_one_line_error(render(*small(name)), name, "cornell_box")


def test_not_json_and_not_a_scene(render, tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.txt").write_text("{")
    assert_one_line_error(render(*small("a.json")), "a.json", "JSON")
    assert_one_line_error(render(*small("a.txt")), "a.txt", ".json")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(render(*small("empty")), "empty", "*.h5")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda f: f.__delitem__("vn"), ("vn",)),
        (lambda f: f["triangles"].__setitem__((0, 0, 0), np.inf), ("triangles", "finite")),
        (lambda f: f["fov"].__setitem__(0, 0), ("fov",)),
        (lambda f: f["texture"].__setitem__((0, 0), -1), ("texture", ">= 0")),
    ],
)
def test_bad_h5(render, tmp_path, change, parts):
    save_h5(load_scene(BLUE_ROOM), tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        change(file)
    assert_one_line_error(render(*small("bad.h5")), "bad.h5", *parts)


def test_two_scenes_of_one_name(render, tmp_path):
    shutil.copytree(BLUE_ROOM.parent, tmp_path / "a")
    other = BLUE_ROOM.parents[1] / "cornell_box" / "scene.json"
    assert_one_line_error(render(*small("a/scene.json", other)), "2 scenes are called 'scene'")


# --- bad input: options ---


def swin_folder(folder, config):
    import dataclasses

    from rf_jax.weights.random_weights import random_variables

    swin = dataclasses.replace(config, view_transformer_use_swin_attn=True)
    save_hugging_face_folder(folder, random_variables(swin, 0), swin.to_dict())
    return folder


def test_resolutions_that_the_network_does_not_divide(render, tmp_path, config):
    for resolution in (0, -8, 102):
        arguments = ("blue_room", "--output_dir", "out", "--resolution", resolution)
        assert_one_line_error(render(*arguments), "multiple of 4", f"found {resolution}")
    arguments = ("blue_room", "--output_dir", "out", "--resolution", 8_000_000)
    assert_one_line_error(render(*arguments), "expected at most 16384, found 8000000")
    folder = swin_folder(tmp_path / "swin", config)
    arguments = ("blue_room", "--output_dir", "out", "--resolution", 72, "--checkpoint", folder)
    assert_one_line_error(render(*arguments), "multiple of 64", "found 72")


def test_bad_views(render):
    assert_one_line_error(render(*small("blue_room", "--views", "2-9")), "views", "'2-9'")


def test_unknown_attention_lists_the_known(render):
    result = render(*small("blue_room", "--attention", "softmax"))
    assert_one_line_error(result, "auto, dot_product, flash, performer", "'softmax'")


@pytest.mark.parametrize("option", ["--precision", "--tone_mapper"])
def test_unknown_choices(render, option):
    status, _, err = render(*small("blue_room", option, "x"))
    assert status == 2 and "invalid choice: 'x'" in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 5 TiB")])
def test_out_of_memory_says_what_to_lower(render, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(rendering.Renderer, "encode_scene", fail)
    assert_one_line_error(render(*small("blue_room")), "out of memory", "--resolution")


def test_results_that_are_not_finite_stop(render, tmp_path, config, variables):
    import jax

    variables = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    save_checkpoint(tmp_path / "nan", variables, config.to_dict())
    result = render(*small("blue_room", "--checkpoint", "nan"))
    assert_one_line_error(result, "12288 of 12288 rendered values are not finite")
    assert not list((tmp_path / "out").glob("*"))


# --- bad input: weights ---


def test_bad_weights(render, tmp_path, config, variables):
    assert_one_line_error(
        render(*small("blue_room", "--checkpoint", "none")), "none", "no such folder"
    )
    folder = tmp_path / "torch"
    save_hugging_face_folder(folder, variables, config.to_dict())
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    too_small, damaged = "bytes cannot hold", "damaged: its bytes are not those"
    for broken, message in (
        (b"", too_small),
        (data[:100], too_small),
        (b"\xff" * 8 + data[8:], damaged),
        (data[:-100], damaged),
    ):
        weights.write_bytes(broken)
        result = render(*small("blue_room", "--checkpoint", "torch"))
        assert_one_line_error(result, "model.safetensors", message)
    weights.write_bytes(data)
    values = config.to_dict() | {"use_env_lighting": True}
    (folder / "config.json").write_text(json.dumps(values))
    result = render(*small("blue_room", "--checkpoint", "torch"))
    assert_one_line_error(result, "config.json", "use_env_lighting", "does not compute")


def test_hub_ids_without_a_network(command, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = command("convert_weights.py", "microsoft/renderformer-v1-base-none", "out")
    assert_one_line_error(result, "microsoft/renderformer-v1-base-none", "by hand")
    assert not Path("out").exists()


def test_pt_files_need_a_configuration_and_run_nothing(command, tmp_path):
    import pickle
    import zipfile

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model_state_dict": Hostile()}))
    assert_one_line_error(command("convert_weights.py", "a.pt", "out"), "--model_config")
    from rf_jax.models import VARIANTS

    (tmp_path / "config.json").write_text(json.dumps(VARIANTS["testing"].to_dict()))
    arguments = ("a.pt", "out", "--model_config", "config.json")
    assert_one_line_error(command("convert_weights.py", *arguments), "a.pt", "open")
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "out").exists()
