import logging

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax.errors import InputError
from rf_jax.scene import h5, load_h5, load_scene, save_h5
from rf_jax.structs import constant_texture, expand_texture

FIELDS = ("triangles", "vertex_normals", "texture", "camera_to_world", "fov_degrees")


def _assert_same(actual, expected):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field))
        assert getattr(actual, field).dtype == np.float32
    assert actual.valid_mask is None


@pytest.mark.parametrize("full_texture", [False, True])
@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_round_trip(scene, tmp_path, full_texture, suffix):
    path = tmp_path / f"scene{suffix}"
    save_h5(scene, path, full_texture=full_texture)
    _assert_same(load_scene(path), scene)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_layout_of_published_files(scene, tmp_path):
    path = tmp_path / "scene.h5"
    save_h5(scene, path, full_texture=True)
    with h5py.File(path) as file:
        layout = {name: (file[name].shape, file[name].dtype.name) for name in file}
        texture = file["texture"][:]
    assert layout == {
        "triangles": ((5, 3, 3), "float32"),
        "vn": ((5, 3, 3), "float32"),
        "texture": ((5, 13, 32, 32), "float16"),
        "c2w": ((2, 4, 4), "float32"),
        "fov": ((2,), "float32"),
    }
    x, y = np.indices((32, 32))
    assert not texture[:, :, x + y > 32].any()
    assert (texture[:, :, x + y <= 32] == scene.texture[..., None]).all()


def test_real_textures_stay_patches(scene, tmp_path):
    texture = expand_texture(scene.texture, 8)
    texture[3, 0, 1, 1] += 0.25
    path = tmp_path / "scene.h5"
    save_h5(scene.replace(texture=texture), path)
    np.testing.assert_array_equal(load_h5(path).texture, texture)


def test_only_valid_triangles_are_written(scene, tmp_path):
    padded = scene.replace(
        valid_mask=np.array([1, 1, 0, 1, 0], bool),
        triangles=np.where(np.arange(5)[:, None, None] == 2, np.nan, scene.triangles),
    )
    path = tmp_path / "scene.h5"
    save_h5(padded, path)
    np.testing.assert_array_equal(load_h5(path).triangles, scene.triangles[[0, 1, 3]])


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**31))
def test_collapse_is_the_inverse_of_expand(size, count, seed):
    value = np.random.default_rng(seed).random((count, 13)).astype(np.float16)
    np.testing.assert_array_equal(constant_texture(expand_texture(value, size)), value)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 40])
def test_patches_are_collapsed_in_chunks(tmp_path, monkeypatch, count):
    monkeypatch.setattr(h5, "_CHUNK", 16)
    value = np.random.default_rng(count).random((count, 13)).astype(np.float16)
    with h5py.File(tmp_path / f"{count}.h5", "w") as file:
        dataset = file.create_dataset("texture", data=expand_texture(value))
        np.testing.assert_array_equal(h5._read_texture(dataset), value.astype(np.float32))


def _write(scene, path, changes=None):
    """The scene's arrays as datasets; a change is an array, or None for a missing dataset."""
    arrays = {name: getattr(scene, field) for field, name in h5.DATASETS.items()}
    with h5py.File(path, "w") as file:
        for name, array in (arrays | (changes or {})).items():
            if array is not None:
                file[name] = array


def test_reads_other_widths_and_ignores_other_datasets(scene, tmp_path):
    changes = {
        "triangles": scene.triangles.astype(np.float64),
        "vn": scene.vertex_normals.astype(np.float64),
        "texture": scene.texture.astype(np.float64),
        "fov": scene.fov_degrees[:, None],
        "img": np.zeros((2, 8, 8, 4), np.float16),
        "mvp": np.full((2, 4, 4), np.nan),
    }
    _write(scene, tmp_path / "a.h5", changes)
    _assert_same(load_h5(tmp_path / "a.h5"), scene)


def _with(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def _camera(scene, index, value):
    return {"c2w": _with(scene.camera_to_world, index, value)}


BAD_DATASETS = {
    "no triangles": (lambda s: {"triangles": None}, "triangles: missing"),
    "no normals": (lambda s: {"vn": None}, "vn: missing"),
    "no camera": (lambda s: {"c2w": None}, "c2w: missing"),
    "rank": (
        lambda s: {"triangles": np.zeros((5, 9), "f4")},
        "triangles: expected shape [N, 3, 3]",
    ),
    "batch": (lambda s: {"triangles": s.triangles[None]}, "triangles: expected shape [N, 3, 3]"),
    "shape": (lambda s: {"vn": s.vertex_normals[:, :2]}, "vn: expected shape [5, 3, 3]"),
    "other N": (lambda s: {"vn": s.vertex_normals[:3]}, "vn: expected shape [5, 3, 3], found [3,"),
    "texture N": (
        lambda s: {"texture": s.texture[:3]},
        "texture: expected shape [5, 13] or [5, 13",
    ),
    "channels": (lambda s: {"texture": s.texture[:, :10]}, "texture: expected shape [5, 13]"),
    "not square": (lambda s: {"texture": np.zeros((5, 13, 4, 8), "f2")}, "texture: expected shape"),
    "no patch": (lambda s: {"texture": np.zeros((5, 13, 0, 0), "f2")}, "texture: expected shape"),
    "N = 0": (
        lambda s: {"triangles": s.triangles[:0]},
        "triangles: expected shape [N, 3, 3] (at l",
    ),
    "V = 0": (lambda s: {"c2w": s.camera_to_world[:0]}, "c2w: expected shape [V, 4, 4] (at least"),
    "other V": (lambda s: {"fov": s.fov_degrees[:1]}, "fov: expected shape [2], found [1]"),
    "c2w 3x4": (lambda s: {"c2w": s.camera_to_world[:, :3]}, "c2w: expected shape [V, 4, 4]"),
    "integers": (lambda s: {"triangles": np.zeros((5, 3, 3), int)}, "triangles: expected floating"),
    "text": (lambda s: {"fov": "forty"}, "fov: expected an array of numbers"),
    "NaN": (
        lambda s: {"triangles": _with(s.triangles, (1, 2, 0), np.nan)},
        "triangles: expected fi",
    ),
    "overflow": (lambda s: {"triangles": np.full((5, 3, 3), 1e300)}, "triangles: expected finite"),
    "inf light": (
        lambda s: {"texture": _with(s.texture, (0, 10), np.inf)},
        "texture: expected fin",
    ),
    "negative": (lambda s: {"texture": _with(s.texture, (0, 0), -0.5)}, "texture: expected values"),
    "roughness": (
        lambda s: {"texture": _with(s.texture, (0, 6), 1.1)},
        "texture: expected roughne",
    ),
    "rough patch": (
        lambda s: {"texture": _with(expand_texture(s.texture, 4), (0, 6, 1, 1), 1.1)},
        "texture: expected roughness in [0, 1]",
    ),
    "NaN patch": (
        lambda s: {"texture": _with(expand_texture(s.texture, 4), (0, 6, 1, 1), np.nan)},
        "texture: expected finite",
    ),
    "fov 0": (lambda s: {"fov": np.float32([40, 0])}, "fov: expected degrees in (0, 180), found"),
    "fov 180": (lambda s: {"fov": np.float32([40, 180])}, "fov: expected degrees in (0, 180)"),
    "fov NaN": (lambda s: {"fov": np.float32([40, np.nan])}, "fov: expected degrees"),
    "c2w NaN": (lambda s: _camera(s, (0, 0, 3), np.nan), "c2w: expected finite"),
    "scaled": (
        lambda s: {"c2w": s.camera_to_world * np.float32([2, 2, 2, 1])},
        "c2w: expected rota",
    ),
    "mirrored": (
        lambda s: {"c2w": s.camera_to_world * np.float32([-1, 1, 1, 1])},
        "c2w: expected rotations, found mirroring",
    ),
    "last row": (lambda s: _camera(s, (0, 3, 0), 1), "c2w: expected a last row of 0, 0, 0, 1"),
    "all normals": (lambda s: {"vn": s.vertex_normals * np.nan}, "all 5 triangles are degenerate"),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_bad_datasets(scene, tmp_path, case):
    change, words = BAD_DATASETS[case]
    path = tmp_path / "bad.h5"
    _write(scene, path, change(scene))
    with pytest.raises(InputError) as error:
        load_h5(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message, message


def test_a_group_is_not_a_dataset(scene, tmp_path):
    _write(scene, tmp_path / "a.h5", {"vn": None})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_group("vn")
    with pytest.raises(InputError, match="vn: missing or damaged dataset"):
        load_h5(tmp_path / "a.h5")


def test_bad_files(scene, tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match=r"a\.h5: no such file"):
        load_h5(path)
    path.write_text("not HDF5")
    with pytest.raises(InputError, match=r"a\.h5: not a complete HDF5 file"):
        load_h5(path)
    with pytest.raises(InputError, match="expected a file, found a folder"):
        load_h5(tmp_path)
    save_h5(scene, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a\.h5: not a complete HDF5 file"):
        load_h5(path)


def test_undefined_normals_are_dropped_and_zero_normals_kept(scene, tmp_path, caplog):
    normals = _with(_with(scene.vertex_normals, (1, 0), np.nan), 2, 0)
    _write(scene, tmp_path / "a.h5", {"vn": normals})
    with caplog.at_level(logging.WARNING):
        loaded = load_h5(tmp_path / "a.h5")
    assert "a.h5: dropped 1 degenerate triangles" in caplog.text
    np.testing.assert_array_equal(loaded.triangles, scene.triangles[[0, 2, 3, 4]])
    assert not loaded.vertex_normals[1].any()


def test_roughness_of_float16_rounding_is_accepted(scene, tmp_path):
    texture = _with(scene.texture, (0, 6), 1.0009)
    _write(scene, tmp_path / "a.h5", {"texture": texture})
    assert load_h5(tmp_path / "a.h5").texture[0, 6] > 1


def test_bad_saves(scene, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.a\.h5: cannot be written"):
        save_h5(scene, tmp_path / "file" / "a.h5")
    (tmp_path / "file").unlink()
    bright = scene.replace(texture=_with(scene.texture, (0, 10), 7e4))
    with pytest.raises(InputError, match="texture: expected values up to 65504"):
        save_h5(bright, tmp_path / "a.h5")
    batch = scene.replace(**{field: getattr(scene, field)[None] for field in FIELDS})
    with pytest.raises(InputError, match="found a batch"):
        save_h5(batch, tmp_path / "a.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError, match=r"folder\.h5: cannot be written"):
        save_h5(scene, tmp_path / "folder.h5")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.h5"]


def test_a_failed_save_keeps_the_old_file(scene, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    save_h5(scene, path)

    def fail(file, arrays, full_texture):
        file["triangles"] = arrays["triangles"]
        raise OSError("disk full")

    monkeypatch.setattr(h5, "_write", fail)
    with pytest.raises(InputError, match=r"a\.h5: cannot be written \(disk full\)"):
        save_h5(scene, path)
    _assert_same(load_h5(path), scene)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_zeros_that_no_scene_needs_are_refused_unread(scene, tmp_path):
    """They take a few hundred bytes in the file, and gigabytes in memory."""
    save_h5(scene, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["fov"]
        file.create_dataset("fov", data=np.zeros(2**19, "f4"), compression="gzip")
    with pytest.raises(InputError, match=r"fov: expected at most 1 MiB, found 2 MiB \(\[524288"):
        load_h5(tmp_path / "a.h5")
