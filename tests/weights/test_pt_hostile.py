"""Checkpoints whose pickles try to run something: nothing runs, and the error says what."""

import os
import pickle
import struct
import subprocess
import zipfile

import pytest

from rf_jax.errors import InputError
from rf_jax.weights.torch_files import read_pt

_RAN = []


def _payload(*_):
    _RAN.append(True)


class _Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __call__(self):
        """Only so that pickle accepts a call as the function of another."""

    def __reduce__(self):
        return self.function, self.args


class _Attack:
    def __getstate__(self):
        return {"state": 1}

    def __setstate__(self, state):
        _RAN.append(True)


def _write_pt(data_pkl):
    with zipfile.ZipFile("a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)


def _attacks():
    touch = "open('pwned','w')"
    yield "system", _Call(os.system, "touch pwned")
    yield "popen", _Call(subprocess.Popen, ["touch", "pwned"])
    yield "eval", _Call(eval, touch)
    yield "exec", _Call(exec, touch)
    yield "getattr", _Call(_Call(getattr, _Call(__import__, "os"), "system"), "touch pwned")
    yield "payload", _Call(_payload)
    yield "in a dict", {"epoch": {"model": [(_Call(_payload), 1)]}}
    yield "as a key", {_Call(_payload): 1}
    yield "class", _Attack
    yield "instance", _Attack()
    yield "loads", _Call(pickle.loads, pickle.dumps(_Call(_payload)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("name", "attack"), list(_attacks()))
def test_pt_runs_nothing(tmp_path, monkeypatch, name, attack, protocol):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"model_state_dict": {}, "optimizer_state_dict": attack}, protocol)
    _write_pt(data)
    # Protocol 0 is text, which PyTorch does not write
    refused = "to run '[\\w.]+'" if protocol else "the operation PUT of the file's pickle"
    with pytest.raises(InputError, match=rf"^a\.pt: refuses {refused}") as error:
        read_pt("a.pt")
    assert "\n" not in str(error.value)
    assert not _RAN
    assert os.listdir() == ["a.pt"]


def _opcodes(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def _stack_global(module, name):
    def text(value):
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return text(module) + text(name) + b"\x93"


_REBUILD = _stack_global("torch._utils", "_rebuild_tensor_v2")
_DICT = _stack_global("collections", "OrderedDict")


@pytest.mark.parametrize(
    "data",
    [
        # A call inside a storage's description, and as one.
        _opcodes(b"(\x8c\x07storagecos\nsystem\n\x8c\x0atouch pwned\x85RK\x00tQ"),
        _opcodes(b"cos\nsystem\n\x8c\x0atouch pwned\x85RQ"),
        # Ways of naming a global other than the usual one.
        _opcodes(b"(\x8c\x0atouch pwnedios\nsystem\n"),
        _opcodes(b"(cos\nsystem\n\x8c\x0atouch pwnedo"),
        _opcodes(_stack_global("collections", "OrderedDict.__init__.__globals__")),
        _opcodes(_stack_global("torch", "serialization.os.system")),
        _opcodes(_stack_global("torch.serialization", "load")),
        _opcodes(_stack_global("os\nx", "system\nerror: all is well")),
        _opcodes(b"\x82\x01"),
        # Setting the state or attributes of what may be named.
        _opcodes(_REBUILD, b"}\x8c\x08__call__K\x01sb"),
        _opcodes(_REBUILD, b"N}\x8c\x0c__defaults__K\x01s\x86b"),
        _opcodes(_DICT, b"}\x8c\x08__call__K\x01sb"),
        _opcodes(_DICT, b"N}\x8c\x08__init__K\x01s\x86b"),
        _opcodes(_stack_global("torch", "FloatStorage"), b"}b"),
        # Calls of what may be named, with nonsense.
        _opcodes(_REBUILD, b")R"),
        _opcodes(_REBUILD, b")\x81"),
        _opcodes(_DICT, b"K\x01\x85R"),
        _opcodes(_stack_global("torch", "FloatStorage"), b")R"),
        _opcodes(_stack_global("torch", "Size"), b"K\x01\x85R"),
        # A tensor without a storage.
        _opcodes(b"}\x8c\x01w", _REBUILD, b"(NK\x00K\x00K\x00tRs"),
        _opcodes(b"}\x8c\x01w", _REBUILD, b"(]K\x00))tRs"),
        # Storages described otherwise.
        _opcodes(b"K\x01Q"),
        _opcodes(b"(\x8c\x07storage\x8c\x0cFloatStorageK\x00\x8c\x03cpuK\x01tQ"),
        _opcodes(b"(\x8c\x07storage\x8c\x07Nothing\x8c\x010\x8c\x03cpuK\x01tQ"),
        b"",
        b".",
        b"\x80\x09.",
    ],
)
def test_pt_hostile_opcodes(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    _write_pt(data)
    with pytest.raises(InputError, match=r"^a\.pt: ") as error:
        read_pt("a.pt")
    assert "\n" not in str(error.value)
    assert os.listdir() == ["a.pt"]


_NESTED = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
"""Tuples of a tuple and itself, 60 deep: to hash or to compare them takes 2^60 steps."""

_TENSOR = _REBUILD + b"((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x01tQ"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_opcodes(b"}", _NESTED, b"K\x01s"), "expected strings as keys .* found a tuple"),
        (_opcodes(b"}(", _NESTED, b"K\x01u"), "expected strings as keys .* found a tuple"),
        (_opcodes(b"(", _NESTED, b"K\x01d"), "expected strings as keys .* found a tuple"),
        (_opcodes(b"})", b"\x85" * 10**6, b"K\x01s"), "expected strings as keys"),
        (_opcodes(b"}\x8a\x09", b"\xff" * 8, b"\x1fK\x01s"), "expected strings as keys .* a int"),
        (_opcodes(_DICT, b"](", _NESTED, b"K\x01\x86e\x85R"), "its pickle is damaged"),
        (_opcodes(b"\x8f(", _NESTED, b"\x90"), "refuses the operation EMPTY_SET"),
        (_opcodes(b"(", _NESTED, b"\x91"), "refuses the operation FROZENSET"),
        (_opcodes(b"}\x8c\x01w", _TENSOR, _NESTED, _NESTED, b"\x85)tRs"), "a tensor's place does"),
        (_opcodes(b")", b"\x85" * 10**6), "expected a dict of tensors"),
        (_opcodes(b"}r\xff\xff\xff\x7f"), "found none"),
        (_opcodes(b"\x96", struct.pack("<Q", 2**40)), "refuses the operation BYTEARRAY8"),
        (_opcodes(b"\x8d", struct.pack("<Q", 2**40)), "its pickle is damaged"),
        (_opcodes(b"\x8b", struct.pack("<i", 2**30)), "its pickle is damaged"),
        (_opcodes(_DICT, b"(", b"N" * 17, b"tR"), "other arguments than a tensor's"),
        (_opcodes(b"}" * 2**22), "expected a pickle of at most 4 MiB"),
    ],
)
def test_pt_asks_for_too_much(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(4))
    with pytest.raises(InputError, match=rf"^a\.pt: .*{words}"):
        read_pt("a.pt")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_pt_compressed(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", method) as archive:
        archive.writestr("archive/data.pkl", _opcodes(b"}") + bytes(10**7))
    with pytest.raises(InputError, match=r"a\.pt: a zip file with compressed members"):
        read_pt(tmp_path / "a.pt")


def test_pt_larger_than_its_file(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _opcodes(b"}"))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    sizes = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data[: start + 20] + sizes + data[start + 28 :])
    with pytest.raises(InputError, match=rf"a\.pt: damaged: .* {2**31} bytes, more than the"):
        read_pt(path)
