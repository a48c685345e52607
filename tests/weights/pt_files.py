"""A writer of PyTorch's .pt files without PyTorch."""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

KINDS = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class StoredAs(collections.namedtuple("StoredAs", "kind key count")):
    """A storage in the pickle; its bytes are the zip's business."""


class Tensor:
    """Pickles as a PyTorch tensor does."""

    def __init__(self, storage, offset, shape, strides):
        self.args = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.args


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, StoredAs):
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.count)
        return None


@contextlib.contextmanager
def fake_torch():
    """Stands in for PyTorch while pickling, which only needs its names."""

    def _rebuild_tensor_v2():
        pass

    def _rebuild_parameter():
        pass

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        function.__module__, function.__qualname__ = "torch._utils", function.__name__
        setattr(utils, function.__name__, function)
    for kind in [*KINDS, "ComplexFloatStorage"]:
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        yield torch


def pickled(obj):
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue()


def write_pt(path, data_pkl, storages=None, byteorder="little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def write_state_dict(path, tensors, **others):
    """A training checkpoint of float32 tensors (name -> array), as the Performer fork saves it."""
    state, storages = collections.OrderedDict(), {}
    for key, (name, tensor) in enumerate(tensors.items()):
        tensor = np.ascontiguousarray(tensor, np.float32)
        storages[str(key)] = tensor.tobytes()
        strides = tuple(stride // 4 for stride in tensor.strides)
        state[name] = float_tensor(tensor.ravel(), 0, tensor.shape, strides, str(key))
    with fake_torch():
        return write_pt(path, pickled({"model_state_dict": state, **others}), storages)


def float_tensor(values, offset=0, shape=None, strides=(1,), key="0"):
    shape = (len(values),) if shape is None else shape
    return Tensor(StoredAs("FloatStorage", key, len(values)), offset, shape, strides)
