"""PyTorch's .pt checkpoints: what PyTorch wrote, and files written by hand without it."""

import collections
import pickle
import zipfile
from pathlib import Path

import hypothesis
import ml_dtypes
import numpy as np
import pt_files
import pytest
from hypothesis import strategies as st
from pt_files import KINDS, StoredAs, Tensor, float_tensor, pickled, write_pt

from rf_jax.errors import InputError
from rf_jax.weights.torch_files import read_pt

# Written by PyTorch 2.13: a distributed training checkpoint in bfloat16 with AdamW's state.
_CHECKPOINT = Path(__file__).parents[1] / "data" / "torch_checkpoint.pt"


@pytest.fixture(scope="module")
def fake_torch():
    with pt_files.fake_torch() as torch:
        yield torch


# What PyTorch itself wrote


def test_pt_checkpoint_of_pytorch():
    tensors = read_pt(_CHECKPOINT)
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "0.weight": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16) / 4,
        "0.bias": np.array([1, 1.25], ml_dtypes.bfloat16),
        "1.weight": np.array([2, 2.25], ml_dtypes.bfloat16),
        "1.bias": np.array([3, 3.25], ml_dtypes.bfloat16),
        "base": base,
        "permuted": base.transpose(2, 0, 1),
        "slice": base[1, :, 1:3],
        "expanded": np.array([[1, 2]] * 3, np.float32),
        "tied": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16) / 4,
        "empty": np.zeros((0, 5), np.float32),
        "scalar": np.array(2.5),
        "parameter": np.array([1.5, -2], np.float16),
    }
    for dtype in ("int64", "int32", "int16", "int8", "uint8", "bool"):
        expected[dtype] = np.array([0, 1, 1, 0], dtype)
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype, name
        np.testing.assert_array_equal(tensors[name], value, name)
    assert np.shares_memory(tensors["0.weight"], tensors["tied"])
    assert not tensors["base"].flags.writeable


def test_pt_reads_only_the_models_storages(tmp_path, monkeypatch):
    read = []
    original = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda self, name, *args: read.append(str(name)) or original(self, name, *args),
    )
    read_pt(_CHECKPOINT)
    assert len(read) == len(set(read))
    # The pickle, the byte order, and 15 storages of 18 tensors; AdamW's 12 are left alone.
    assert len(read) == 17


@pytest.mark.parametrize("fraction", [0.0, 0.0002, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_pt_truncated(tmp_path, fraction):
    content = _CHECKPOINT.read_bytes()
    path = tmp_path / "a.pt"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=r"a\.pt: .*damaged or cut short") as error:
        read_pt(path)
    assert "\n" not in str(error.value)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=200)
def test_pt_damaged_anywhere_gives_an_input_error_or_tensors(tmp_path_factory, data):
    content = bytearray(_CHECKPOINT.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pt") / "a.pt"
    path.write_bytes(content)
    try:
        tensors = read_pt(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())


# Written by hand


@hypothesis.given(
    kind=st.sampled_from(sorted(KINDS)),
    byteorder=st.sampled_from(["little", "big"]),
    shape=st.lists(st.integers(1, 4), max_size=4),
    data=st.data(),
)
@hypothesis.settings(max_examples=60)
def test_pt_views(tmp_path_factory, fake_torch, kind, byteorder, shape, data):
    base = np.arange(int(np.prod(shape))).astype(KINDS[kind]).reshape(shape)
    axes = data.draw(st.permutations(range(base.ndim)))
    steps = tuple(slice(None, None, data.draw(st.integers(1, 2))) for _ in shape)
    view = base[steps].transpose(axes)
    strides = tuple(stride // base.itemsize for stride in view.strides)
    stored = StoredAs(kind, "7", base.size)
    raw = base.view(f"u{base.itemsize}")
    raw = raw.astype(raw.dtype.newbyteorder(byteorder)).tobytes()
    path = tmp_path_factory.mktemp("pt") / "a.pt"
    write_pt(path, pickled({"w": Tensor(stored, 0, view.shape, strides)}), {"7": raw}, byteorder)
    loaded = read_pt(path)["w"]
    assert loaded.dtype == base.dtype
    assert loaded.dtype.isnative
    np.testing.assert_array_equal(loaded, view)


def test_pt_offset_and_shared_storage(tmp_path, fake_torch):
    values = np.arange(6, dtype=np.float32)
    state = {
        "all": float_tensor(values),
        "tail": float_tensor(values, offset=4, shape=(2,)),
        "transposed": float_tensor(values, shape=(3, 2), strides=(1, 3)),
    }
    loaded = read_pt(write_pt(tmp_path / "a.pt", pickled(state), {"0": values.tobytes()}))
    np.testing.assert_array_equal(loaded["tail"], [4, 5])
    np.testing.assert_array_equal(loaded["transposed"], values.reshape(2, 3).T)
    assert np.shares_memory(loaded["all"], loaded["tail"])


def test_pt_prefix_goes_only_when_every_name_has_it(tmp_path, fake_torch):
    values = np.ones(2, np.float32)
    for names, expected in [
        (["module.a", "module.module.b"], ["a", "module.b"]),
        (["module.a", "b"], ["module.a", "b"]),
    ]:
        state = collections.OrderedDict((name, float_tensor(values)) for name in names)
        path = write_pt(tmp_path / "a.pt", pickled(state), {"0": values.tobytes()})
        assert list(read_pt(path)) == expected


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (4,), (1,)),
        (0, (5,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2,), (2**70,)),
        (0, (2**40, 2**40), (0, 0)),
        (4, (), ()),
        (0, (1.5,), (1,)),
        (0, "ab", (1, 1)),
        (None, (1,), (1,)),
    ],
)
def test_pt_tensor_outside_its_storage(tmp_path, fake_torch, offset, shape, strides):
    values = np.zeros(4, np.float32)
    tensor = float_tensor(values, offset, shape, strides)
    path = write_pt(tmp_path / "a.pt", pickled({"w": tensor}), {"0": values.tobytes()})
    with pytest.raises(InputError, match=r"a\.pt: w: damaged: .* storage of 4 values"):
        read_pt(path)


@pytest.mark.parametrize("content", [b"", bytes(15), bytes(17)])
def test_pt_storage_of_the_wrong_size(tmp_path, fake_torch, content):
    state = {"w": float_tensor(np.zeros(4, np.float32))}
    path = write_pt(tmp_path / "a.pt", pickled(state), {"0": content})
    with pytest.raises(InputError, match="should have 4 values of float32, found"):
        read_pt(path)


def test_pt_without_its_storage(tmp_path, fake_torch):
    path = write_pt(tmp_path / "a.pt", pickled({"w": float_tensor(np.zeros(4, np.float32))}))
    with pytest.raises(InputError, match="data/0"):
        read_pt(path)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "expected a dict"),
        ({}, "found none"),
        ({"model_state_dict": {}}, "found none"),
        ({"model_state_dict": 3}, "found none"),
        ({"epoch": 3}, "found 'epoch' of type int"),
        ({"model_state_dict": {"w": None}}, "found 'w' of type NoneType"),
    ],
)
def test_pt_without_a_model(tmp_path, checkpoint, message):
    with pytest.raises(InputError, match=message):
        read_pt(write_pt(tmp_path / "a.pt", pickle.dumps(checkpoint)))


def test_pt_other_files(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))
    with pytest.raises(InputError, match=r"before 1\.6"):
        read_pt(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "a zip file")
    with pytest.raises(InputError, match=r"not one of torch\.save"):
        read_pt(path)
    with pytest.raises(InputError, match="no such file"):
        read_pt(tmp_path / "b.pt")
    with pytest.raises(InputError, match="a folder"):
        read_pt(tmp_path)


def test_pt_refuses_unknown_storages(tmp_path, fake_torch):
    tensor = Tensor(StoredAs("ComplexFloatStorage", "0", 1), 0, (1,), (1,))
    with pytest.raises(InputError, match=r"refuses to run 'torch\.ComplexFloatStorage'"):
        read_pt(write_pt(tmp_path / "a.pt", pickled({"w": tensor})))
