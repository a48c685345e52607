import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from rf_jax.errors import InputError
from rf_jax.weights import torch_files
from rf_jax.weights.torch_files import (
    read_safetensors,
    read_safetensors_metadata,
    resolve_model_folder,
    write_safetensors,
)

# Written by PyTorch 2.13, with the metadata that its hub classes write.
_SAFETENSORS = Path(__file__).parents[1] / "data" / "torch_weights.safetensors"


# safetensors


def test_safetensors_of_pytorch_is_written_back_byte_for_byte(tmp_path):
    tensors, metadata = read_safetensors(_SAFETENSORS), read_safetensors_metadata(_SAFETENSORS)
    assert metadata == {"format": "pt"}
    assert tensors["b.weight"].dtype == ml_dtypes.bfloat16
    write_safetensors(tmp_path / "a.safetensors", tensors, metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == _SAFETENSORS.read_bytes()


def test_safetensors_round_trip(tmp_path):
    dtypes = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool", ml_dtypes.bfloat16, ">f4"]
    tensors = {str(i): np.arange(12).reshape(3, 4).astype(dtype) for i, dtype in enumerate(dtypes)}
    tensors["transposed"] = np.arange(12, dtype=np.float32).reshape(3, 4).T
    tensors["reversed"] = np.arange(4, dtype=np.float32)[::-1]
    tensors["scalar"] = np.float32(1.5)
    tensors["empty"] = np.zeros((0, 3), np.float32)
    path = tmp_path / "new" / "a.safetensors"
    write_safetensors(path, tensors)
    loaded = read_safetensors(path)
    assert read_safetensors_metadata(path) is None
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype.newbyteorder("="), name
        assert loaded[name].shape == np.shape(value)
        np.testing.assert_array_equal(loaded[name], value, name)
    assert os.listdir(path.parent) == ["a.safetensors"]


@pytest.mark.parametrize("length", [0, 4, 8, 40, 200, 340, 383])
def test_safetensors_truncated(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(_SAFETENSORS.read_bytes()[:length])
    for read in (read_safetensors, read_safetensors_metadata):
        with pytest.raises(InputError, match=r"a\.safetensors: not a readable") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_safetensors_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in {"": "a folder", "missing": "no such file", "pipe": "a pipe"}.items():
        with pytest.raises(InputError, match=words):
            read_safetensors(tmp_path / name)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E8M0", "C64"])
def test_safetensors_of_other_types(tmp_path, kind):
    size = 8 if kind == "C64" else 1
    header = {"a\x1b": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}
    data = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(size))
    with pytest.raises(InputError, match=rf"a\\x1b: expected one of F64, .* found {kind}; conv"):
        read_safetensors(path)


def test_safetensors_writer_failing_halfway_leaves_nothing(tmp_path, monkeypatch):
    def fail(_, path, __):
        path.write_bytes(b"half")
        raise SafetensorError("disk full")

    monkeypatch.setattr(torch_files, "save_file", fail)
    with pytest.raises(InputError, match="disk full"):
        write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == []


# Model folders


def _make_model(folder):
    for name in torch_files.MODEL_FILES:
        (folder / name).touch()
    return folder


def test_model_folder_is_itself(tmp_path):
    assert resolve_model_folder(str(_make_model(tmp_path))) == tmp_path


@pytest.mark.parametrize("missing", torch_files.MODEL_FILES)
def test_model_folder_names_the_missing_file(tmp_path, missing):
    (_make_model(tmp_path) / missing).unlink()
    with pytest.raises(InputError, match=missing):
        resolve_model_folder(tmp_path)


def test_hub_model_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns))
        return str(_make_model(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model_folder("owner/some-model_v1.1") == tmp_path
    assert asked == [("owner/some-model_v1.1", ["config.json", "model.safetensors"])]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "no such public repository"),
        (LocalEntryNotFoundError("offline\nmode"), r"\(offline mode\); without a network, get"),
        (Exception("from the HTTP library"), "from the HTTP library"),
    ],
)
def test_hub_failures(monkeypatch, failure, message):
    def download(*_, **__):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=message) as error:
        resolve_model_folder("owner/name")
    assert "\n" not in str(error.value)


def test_hub_offline(tmp_path):
    code = "from rf_jax.weights.torch_files import resolve_model_folder as r; r('owner/name')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "InputError: owner/name: no such folder, and not downloaded" in result.stderr


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "./a/b", "a/b/c", "", "a b/c"])
def test_neither_folder_nor_hub_id(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        resolve_model_folder(source)
