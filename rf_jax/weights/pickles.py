"""The pickle in a PyTorch checkpoint as plain data: nothing runs, and effort grows with its size.

A pickle is a program for a small stack machine. Python's own machine, in the version that is
written in Python, runs here with the few operations that PyTorch writes. Left out is what calls or
builds anything but tensors, and what lets a short program ask for much work or memory: sets and
keys other than strings (hashing nested tuples takes exponential time), calls with many arguments,
buffers of a declared size. Nested data is never walked through.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from rf_jax.errors import InputError, one_line

MAX_PICKLE_BYTES = 4 * 2**20
"""Largest pickle that is read; those of the published sizes have less than 1 MiB."""

STORAGE_DTYPES = {
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


class Storage(NamedTuple):
    """A raw storage: its file under data/, its PyTorch class, and its number of elements."""

    key: str
    kind: str
    count: int


class Tensor(NamedTuple):
    """The unchecked arguments of torch._utils._rebuild_tensor_v2, counted in elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def unpickle(data: bytes) -> object:
    """Decodes a pickle to plain data, `Storage` and `Tensor`.

    Raises:
      InputError: the pickle is damaged or too large, or asks for anything else.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise InputError(
            f"expected a pickle of at most {MAX_PICKLE_BYTES >> 20} MiB, found {len(data) >> 20} "
            "MiB; save it again with nothing but the model's state_dict"
        )
    try:
        return _InertUnpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise InputError(
            f"its pickle is damaged ({one_line(error, 120)}); save it again"
        ) from error


_REMEDY = "expected only tensors: save it again with nothing but the model's state_dict"

_MAX_ARGUMENTS = 16
"""Most arguments of a call; `_rebuild_tensor_v2` has six or seven."""

# What PyTorch writes, and no more
_OPERATIONS = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP,
    pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.LONG1, pickle.LONG4, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
    pickle.BINUNICODE8, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
    pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS,
    pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS, pickle.GLOBAL,
    pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
)  # fmt: skip


class _Operations(dict):
    """The method of each operation's code, as `pickle` looks it up."""

    def __missing__(self, code: int) -> Callable:
        names = (n for n in pickle.__all__ if getattr(pickle, n) == bytes([code]))
        name = next(names, f"0x{code:02x}")
        raise InputError(f"refuses the operation {name} of the file's pickle; {_REMEDY}")


class _InertUnpickler(pickle._Unpickler):
    """Builds plain data, `Storage` and `Tensor`, and refuses every other global."""

    def find_class(self, module: str, name: str) -> str | Callable:
        """Stands in for the few globals of checkpoints; its functions are made afresh each time."""
        match module, name:
            case "torch", storage if storage in STORAGE_DTYPES:
                return storage
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: Tensor(
                    storage, offset, shape, strides
                )
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "collections", "OrderedDict":
                return lambda: {}
            case "torch", "Size":
                return lambda sizes: sizes
            case "torch", "device":
                return lambda *_: None
        raise InputError(
            f"refuses to run {one_line(f'{module}.{name}', 80)!r} from the file's pickle; {_REMEDY}"
        )

    def persistent_load(self, pid: object) -> Storage:
        """The storage that PyTorch's persistent id describes."""
        match pid:
            case ("storage", str(kind), str(key), _, int(count)) if kind in STORAGE_DTYPES:
                return Storage(key, kind, count)
        raise InputError("damaged: a tensor storage is not described as PyTorch does")

    def load_reduce(self) -> None:
        """Calls one of `find_class`'s functions."""
        if not isinstance(self.stack[-1], tuple) or len(self.stack[-1]) > _MAX_ARGUMENTS:
            raise InputError("damaged: a call in its pickle has other arguments than a tensor's")
        super().load_reduce()

    def load_build(self) -> None:
        """Drops the attributes of an OrderedDict, which are PyTorch's versions of modules."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise InputError(f"refuses to set attributes from the file's pickle; {_REMEDY}")

    def load_setitem(self) -> None:
        """Sets one item of a dict."""
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Sets the items of a dict that follow a mark."""
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """Makes a dict of the items that follow a mark."""
        _check_keys(self.stack[::2])
        super().load_dict()

    dispatch = _Operations(
        {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPERATIONS}
        | {
            pickle.REDUCE[0]: load_reduce,
            pickle.BUILD[0]: load_build,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.DICT[0]: load_dict,
        }
    )


def _check_keys(keys: list) -> None:
    """Only strings and small integers (of optimizer states) are hashed, which is quick."""
    for key in keys:
        if type(key) is not str and not (type(key) is int and 0 <= key < 2**31):
            raise InputError(
                f"expected strings as keys in the file's pickle, found a {type(key).__name__}; "
                f"{_REMEDY}"
            )
