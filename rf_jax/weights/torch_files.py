"""Reading and writing the weight files of the PyTorch project without PyTorch."""

import contextlib
import functools
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import huggingface_hub
import numpy as np
from huggingface_hub.errors import RepositoryNotFoundError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rf_jax.errors import InputError, one_line, prefix_errors
from rf_jax.files import atomic_path, check_file, open_file
from rf_jax.weights.pickles import STORAGE_DTYPES, Storage, Tensor, unpickle

MODEL_FILES = ("config.json", "model.safetensors")
"""The files of a model in a Hugging Face folder."""


# ------------------------------------------------------------------------------------------------
# safetensors
# ------------------------------------------------------------------------------------------------


_SAFETENSORS_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def read_safetensors(path: str | os.PathLike) -> dict[str, NDArray]:
    """Reads every tensor of a safetensors file, by name.

    Raises:
      InputError: the file is missing, truncated or damaged.
    """
    with _opened_safetensors(path) as file:
        names = file.keys()
        for name in names:
            if (kind := file.get_slice(name).get_dtype()) not in _SAFETENSORS_TYPES:
                raise InputError(
                    f"{path}: {one_line(name, 80)}: expected one of "
                    f"{', '.join(_SAFETENSORS_TYPES)}, found {kind}; convert the weights first"
                )
        return {name: file.get_tensor(name) for name in names}


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
    check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: larger than the free memory") from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({one_line(error, 200)}); download it again"
        ) from error


# ------------------------------------------------------------------------------------------------
# .pt checkpoints: zip files with a pickle, data.pkl, and one raw file per tensor storage
# ------------------------------------------------------------------------------------------------

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
    with open_file(path) as file, prefix_errors(str(path)), _opened_zip(file) as archive:
        root = _archive_root(archive)
        state_dict = _model_state_dict(unpickle(archive.read(f"{root}/data.pkl")))
        order = _byte_order(archive, root)
        read = functools.cache(functools.partial(_read_storage, archive, root, order))
        arrays = {}
        for name, tensor in state_dict.items():
            with prefix_errors(name):
                arrays[name] = _strided_view(tensor, read(tensor.storage))
        return arrays


@contextlib.contextmanager
def _opened_zip(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive; errors, here and in the body, become InputErrors."""
    try:
        start = file.read(2)
        # The older formats are a pickle (protocol 2) and a tar of pickles.
        if start == b"\x80\x02":
            raise InputError("PyTorch's format before 1.6; load and save it with a newer one")
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, os.fstat(file.fileno()).st_size)
            yield archive
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("larger than the free memory; save only the model's state_dict") from error
    except _ZIP_ERRORS as error:
        raise InputError(
            f"not a readable PyTorch checkpoint, damaged or cut short ({one_line(error, 200)}); "
            "copy or save it again"
        ) from error


def _check_members(archive: zipfile.ZipFile, file_size: int) -> None:
    """Refuses archives that unpack to more than their own size, as PyTorch's never do."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError("a zip file with compressed members, but PyTorch compresses none")
    total = sum(member.file_size for member in members)
    if total > file_size:
        raise InputError(
            f"damaged: its members should have {total} bytes, more than the {file_size} of the file"
        )


def _archive_root(archive: zipfile.ZipFile) -> str:
    """The folder within the archive that holds everything."""
    pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise InputError("a zip file, but not one of torch.save: expected one data.pkl in it")
    return pickles[0].removesuffix("/data.pkl")


def _model_state_dict(checkpoint: object) -> dict[str, Tensor]:
    """The model's part of a checkpoint, with the names of a model that is not distributed."""
    if not isinstance(checkpoint, dict):
        raise InputError("expected a dict of tensors; save the model's state_dict")
    state_dict = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(state_dict, dict) or not state_dict:
        raise InputError("expected tensors under model_state_dict, found none")
    for name, tensor in state_dict.items():
        is_tensor = isinstance(tensor, Tensor) and isinstance(tensor.storage, Storage)
        if not (isinstance(name, str) and is_tensor):
            raise InputError(
                f"expected model_state_dict or only named tensors, found {one_line(name, 80)!r} of "
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
    archive: zipfile.ZipFile, root: str, byte_order: str, storage: Storage
) -> NDArray:
    """The elements [count] of a storage, in native byte order and read-only."""
    dtype = np.dtype(STORAGE_DTYPES[storage.kind])
    info = archive.getinfo(f"{root}/data/{storage.key}")
    if info.file_size != storage.count * dtype.itemsize:
        raise InputError(
            f"damaged: storage {one_line(storage.key, 80)!r} should have {storage.count} values of "
            f"{dtype.name}, found {info.file_size} bytes"
        )
    # Bytes are swapped as integers, because bfloat16 has no big-endian form in NumPy.
    raw = np.frombuffer(archive.read(info), f"{byte_order}u{dtype.itemsize}")
    return raw.astype(f"=u{dtype.itemsize}", copy=False).view(dtype)


def _strided_view(tensor: Tensor, data: NDArray) -> NDArray:
    """The elements of a tensor as a view of its storage's `data`."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    try:
        if not all(type(n) is int for n in (offset, *shape, *strides)):
            raise TypeError
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


def resolve_model_folder(
    source: str | os.PathLike, files: Collection[str | tuple[str, ...]] = MODEL_FILES
) -> Path:
    """Finds the folder with the files of a model.

    Args:
      source: a local folder, or a Hugging Face hub id "owner/name", or a folder within such a
        repository, "owner/name/folder". If no such folder exists, the model is downloaded to the
        hub's own cache, once.
      files: names of the files that must be there; of the names in a tuple, any one.

    Raises:
      InputError: source is neither of these, the folder lacks one of the files, the repository is
        unknown, or the hub cannot be reached.
    """
    folder = Path(source)
    if not os.path.exists(folder):
        folder = _downloaded_folder(str(source), files)
    for names in map(_alternatives, files):
        if not any(os.path.exists(folder / name) for name in names):
            raise InputError(
                f"{source}: expected a folder with {' or '.join(names)}, which is missing there"
            )
    return folder


def _alternatives(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _downloaded_folder(hub_id: str, files: Collection[str | tuple[str, ...]]) -> Path:
    """The folder of a hub model in the hub's cache, downloaded if it is not there yet."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)+", hub_id):
        raise InputError(
            f"{hub_id}: no such folder, nor a hub id like microsoft/renderformer-v1-base; "
            "check the name"
        )
    owner, name, *folders = hub_id.split("/")
    patterns = ["/".join((*folders, name)) for names in files for name in _alternatives(names)]
    try:
        snapshot = huggingface_hub.snapshot_download(f"{owner}/{name}", allow_patterns=patterns)
        return Path(snapshot, *folders)
    except (RepositoryNotFoundError, ValueError) as error:
        raise InputError(
            f"{hub_id}: no such folder, and no such public repository on the Hugging Face hub; "
            "check the name (or log in, if it is private)"
        ) from error
    except Exception as error:  # of whichever HTTP library the hub's client uses
        wanted = " and ".join(_alternatives(names)[0] for names in files)
        raise InputError(
            f"{hub_id}: no such folder, and not downloaded from the Hugging Face hub "
            f"({one_line(error, 200)}); without a network, get {wanted} from "
            f"https://huggingface.co/{owner}/{name} by hand and give their folder"
        ) from error
