"""Reading and writing the weight files of the PyTorch project without PyTorch."""

import contextlib
import functools
import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import ml_dtypes  # also teaches numpy the name bfloat16, which safetensors asks it for
import numpy as np
from huggingface_hub.errors import RepositoryNotFoundError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import atomic_path

MODEL_FILES = ("config.json", "model.safetensors")
"""The files of a model in a Hugging Face folder."""


# ------------------------------------------------------------------------------------------------
# safetensors
# ------------------------------------------------------------------------------------------------


def read_safetensors(path: str | os.PathLike) -> dict[str, NDArray]:
    """Reads every tensor of a safetensors file, by name.

    Raises:
      InputError: the file is missing, truncated or damaged.
    """
    with _opened_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_safetensors_metadata(path: str | os.PathLike) -> dict[str, str] | None:
    """Reads the metadata in the header of a safetensors file; None if there is none.

    Raises:
      InputError: the file is missing, truncated or damaged.
    """
    with _opened_safetensors(path) as file:
        return file.metadata()


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, NDArray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file.

    What `read_safetensors` and `read_safetensors_metadata` returned is written back byte for byte.

    Args:
      path: of the file.
      tensors: name -> array.
      metadata: strings for the header, where PyTorch writes {"format": "pt"}.

    Raises:
      InputError: the path cannot be written.
    """
    # safetensors ignores strides, so arrays must be contiguous.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata and dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from error


@contextlib.contextmanager
def _opened_safetensors(path: str | os.PathLike) -> Iterator[safe_open]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({_one_line(error)}); download it again"
        ) from error


# ------------------------------------------------------------------------------------------------
# .pt checkpoints: zip files with a pickle, data.pkl, and one raw file per tensor storage
# ------------------------------------------------------------------------------------------------

_STORAGE_DTYPES = {
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

# The errors that zipfile raises on damaged files, found by flipping bytes.
_ZIP_ERRORS = (
    OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def read_pt(path: str | os.PathLike) -> dict[str, NDArray]:
    """Reads the model's tensors from a PyTorch checkpoint, without running anything in it.

    The file is one that `torch.save` wrote: a training checkpoint with `model_state_dict`, or a
    bare state dict. A leading `module.` (of distributed training) is dropped from the names. Only
    the model's own storages are read. The arrays are read-only, have the strides that were saved,
    and share memory where the tensors did.

    Raises:
      InputError: the file is missing, damaged or in the format before PyTorch 1.6, or it asks to
        run or build anything but plain tensors.
    """
    with prefix_errors(str(path)), _opened_zip(path) as archive:
        root = _archive_root(archive)
        state_dict = _model_state_dict(_unpickle(archive.read(f"{root}/data.pkl")))
        order = _byte_order(archive, root)
        read = functools.cache(functools.partial(_read_storage, archive, root, order))
        arrays = {}
        for name, tensor in state_dict.items():
            with prefix_errors(name):
                arrays[name] = _strided_view(tensor, read(tensor.storage))
        return arrays


class _Storage(NamedTuple):
    """A raw storage: its file under data/, its PyTorch class, and its number of elements."""

    key: str
    kind: str
    count: int


class _Tensor(NamedTuple):
    """The unchecked arguments of torch._utils._rebuild_tensor_v2, counted in elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Dict(dict):
    """Takes the place of OrderedDict, and drops attributes that a pickle sets on it."""

    def __setstate__(self, state: object) -> None:
        pass


class _InertUnpickler(pickle.Unpickler):
    """Builds plain data, `_Storage` and `_Tensor`, and refuses every other global."""

    def find_class(self, module: str, name: str) -> str | Callable:
        # The functions are made afresh, so that no pickle can change what a later one gets.
        match module, name:
            case "torch", storage if storage in _STORAGE_DTYPES:
                return storage
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(
                    storage, offset, shape, strides
                )
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "collections", "OrderedDict":
                return lambda *items: _Dict(*items)
            case "torch", "Size":
                return lambda sizes: tuple(sizes)
            case "torch", "device":
                return lambda *_: None
        raise InputError(
            f"refuses to run {f'{module}.{name}'[:80]!r} from the file's pickle; expected only "
            "tensors: save it again with nothing but the model's state_dict"
        )

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), _, int(count)) if kind in _STORAGE_DTYPES:
                return _Storage(key, kind, count)
        raise InputError("damaged: a tensor storage is not described as PyTorch does")


@contextlib.contextmanager
def _opened_zip(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    """Opens the zip archive at `path`; errors, here and in the body, become InputErrors."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            # The older formats are a pickle (protocol 2) and a tar of pickles.
            if start == b"\x80\x02":
                raise InputError("PyTorch's format before 1.6; load and save it with a newer one")
            with zipfile.ZipFile(file) as archive:
                yield archive
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("no such file; check the path") from error
    except _ZIP_ERRORS as error:
        raise InputError(
            f"not a readable PyTorch checkpoint, damaged or cut short ({_one_line(error)}); "
            "copy or save it again"
        ) from error


def _archive_root(archive: zipfile.ZipFile) -> str:
    """The folder within the archive that holds everything."""
    pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise InputError("a zip file, but not one of torch.save: expected one data.pkl in it")
    return pickles[0].removesuffix("/data.pkl")


def _unpickle(data: bytes) -> object:
    try:
        return _InertUnpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise InputError(f"its pickle is damaged ({_one_line(error)}); save it again") from error


def _model_state_dict(checkpoint: object) -> dict[str, _Tensor]:
    """The model's part of a checkpoint, with the names of a model that is not distributed."""
    if not isinstance(checkpoint, dict):
        raise InputError("expected a dict of tensors; save the model's state_dict")
    state_dict = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(state_dict, dict) or not state_dict:
        raise InputError("expected tensors under model_state_dict, found none")
    for name, tensor in state_dict.items():
        is_tensor = isinstance(tensor, _Tensor) and isinstance(tensor.storage, _Storage)
        if not (isinstance(name, str) and is_tensor):
            raise InputError(
                f"expected model_state_dict or only named tensors, found {str(name)[:80]!r} of "
                f"type {type(tensor).__name__}; save the model's state_dict"
            )
    if all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    return state_dict


def _byte_order(archive: zipfile.ZipFile, root: str) -> str:
    """The byte order of the storages, in NumPy's notation; "<" unless the file says otherwise."""
    name = f"{root}/byteorder"
    return ">" if name in archive.namelist() and archive.read(name) == b"big" else "<"


def _read_storage(
    archive: zipfile.ZipFile, root: str, byte_order: str, storage: _Storage
) -> NDArray:
    """The elements [count] of a storage, in native byte order and read-only."""
    dtype = np.dtype(_STORAGE_DTYPES[storage.kind])
    info = archive.getinfo(f"{root}/data/{storage.key}")
    if info.file_size != storage.count * dtype.itemsize:
        raise InputError(
            f"damaged: storage {storage.key[:80]!r} should have {storage.count} values of "
            f"{dtype.name}, found {info.file_size} bytes"
        )
    # Bytes are swapped as integers, because bfloat16 has no big-endian form in NumPy.
    raw = np.frombuffer(archive.read(info), f"{byte_order}u{dtype.itemsize}")
    return raw.astype(f"=u{dtype.itemsize}", copy=False).view(dtype)


def _strided_view(tensor: _Tensor, data: NDArray) -> NDArray:
    """The elements of a tensor as a view of its storage's `data`."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    try:
        if min((offset, *shape, *strides)) < 0 or len(shape) != len(strides):
            raise ValueError
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and last >= len(data):
            raise ValueError
        steps = [s * data.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(data[offset:], shape, steps, writeable=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"damaged: a tensor's place does not fit into its storage of {len(data)} values"
        ) from error


# ------------------------------------------------------------------------------------------------
# Finding a model
# ------------------------------------------------------------------------------------------------


def resolve_model_folder(source: str | os.PathLike) -> Path:
    """Finds the folder with a model's config.json and model.safetensors.

    Args:
      source: a local folder, or a Hugging Face hub id "owner/name". If no such folder exists, the
        model is downloaded to the hub's own cache, once.

    Raises:
      InputError: source is neither of these, the folder lacks one of the two files, the repository
        is unknown, or the hub cannot be reached.
    """
    folder = Path(source)
    if not folder.exists():
        folder = _downloaded_folder(str(source))
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise InputError(f"{source}: expected a folder with {name}, which is missing there")
    return folder


def _downloaded_folder(hub_id: str) -> Path:
    """The folder of a hub model in the hub's cache, downloaded if it is not there yet."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise InputError(
            f"{hub_id}: no such folder, nor a hub id like microsoft/renderformer-v1-base; "
            "check the name"
        )
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(MODEL_FILES)))
    except (RepositoryNotFoundError, ValueError) as error:
        raise InputError(
            f"{hub_id}: no such folder, and no such public repository on the Hugging Face hub; "
            "check the name (or log in, if it is private)"
        ) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise InputError(
            f"{hub_id}: no such folder, and not downloaded from the Hugging Face hub "
            f"({_one_line(error)}); without a network, get {' and '.join(MODEL_FILES)} from "
            f"https://huggingface.co/{hub_id} by hand and give their folder"
        ) from error


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
