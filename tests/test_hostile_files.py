"""Random and damaged files of all kinds: each reader returns, or raises an InputError.

The address space may grow by 1 GiB meanwhile, and ten seconds of processor time may pass. A reader
that runs into the first says so, and fails here.
"""

import contextlib
import copy
import dataclasses
import json
import os
import resource
import signal
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rf_jax.errors import MAX_LENGTH, InputError
from rf_jax.images.files import load_exr, save_exr
from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.h5 import load_attributes, load_images
from rf_jax.scene.mesh import load_mesh
from rf_jax.training.data import SceneLoader
from rf_jax.weights.pretrained import load_pretrained, save_hugging_face_folder
from rf_jax.weights.torch_files import read_pt, read_safetensors
from tests.scene.conftest import TETRAHEDRON, folder, scene, scene_dict  # noqa: F401
from tests.training.settings import small_config
from tests.weights.pt_files import write_state_dict

# Libraries' warnings would be printed beside our one line
pytestmark = pytest.mark.filterwarnings("error")

quick = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

damages = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)
"""Where bytes are replaced, as fractions of the size, and by what."""

_SPACE, _SECONDS = 2**30, 10


def _overdue(*_):
    raise AssertionError(f"a reader took more than {_SECONDS} seconds of processor time")


@contextlib.contextmanager
def bounded():
    """Lets nothing but an InputError out, within 1 GiB more of address space and ten seconds."""
    previous = signal.signal(signal.SIGPROF, _overdue)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _SPACE, hard))
    try:
        yield
    except InputError as error:
        message = str(error)
        assert 0 < len(message) <= MAX_LENGTH and message.isprintable()
        assert "free memory" not in message and "MemoryError" not in message
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def damaged(data, changes, kept=1.0):
    """The bytes with some of them replaced, cut to a fraction of their number."""
    data = bytearray(data)
    for where, new in changes:
        start = int(where * len(data))
        data[start : start + len(new)] = new
    return bytes(data[: int(kept * len(data)) + 1])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.just(10**400)
    | st.sampled_from(["a.obj", "1.0", "/dev/zero", "a\0b", "\x1b[31m", "\ud800", "x" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def _places(value, path=()):
    """The paths of all values within a JSON value."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from _places(item, (*path, key))


@quick
@given(st.data())
def test_scenes_with_other_values(scene_dict, folder, data):  # noqa: F811
    value = copy.deepcopy(scene_dict)
    *parents, last = data.draw(st.sampled_from(list(_places(value))))
    target = value
    for key in parents:
        target = target[key]
    target[last] = data.draw(values)
    path = folder / "scene.json"
    text = json.dumps(value)
    path.write_text(text)
    with bounded():
        load_scene(path)


@quick
@given(damages, st.floats(0, 1))
def test_damaged_scenes(scene_dict, folder, changes, kept):  # noqa: F811
    path = folder / "scene.json"
    path.write_bytes(damaged(json.dumps(scene_dict).encode(), changes, kept))
    with bounded():
        load_scene(path)


@pytest.fixture
def training_file(scene, tmp_path):  # noqa: F811
    """A training file with compressed datasets, and its bytes."""
    path = tmp_path / "a.h5"
    save_h5(scene, path, images=np.ones((2, 16, 16, 4)), attributes={"seed": 1})
    return path, path.read_bytes()


@quick
@given(changes=damages, kept=st.sampled_from([1.0, 1.0, 1.0, 0.5]))
def test_damaged_h5(training_file, changes, kept):
    path, data = training_file
    path.write_bytes(damaged(data, changes, kept))
    for read in (load_scene, load_images, load_attributes):
        with bounded():
            read(path)


types = st.sampled_from(["f2", "f4", "f8", "i4", "u1", "b1", "S3", "V5", "c8", "O", "M"])


@quick
@given(
    name=st.sampled_from(["triangles", "vn", "texture", "c2w", "fov", "img"]),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 13, 16, 10**6, 10**12]), max_size=5),
    kind=types,
    chunked=st.booleans(),
)
def test_other_datasets(training_file, name, shape, kind, chunked):
    path, data = training_file
    path.write_bytes(data)
    kind = {"O": h5py.string_dtype(), "M": h5py.opaque_dtype(np.dtype("M8[s]"))}.get(kind, kind)
    chunks = tuple(min(size, 8) for size in shape) if chunked and shape and min(shape) else None
    with h5py.File(path, "a") as file:
        del file[name]
        with contextlib.suppress(ValueError):  # more than HDF5 can declare
            file.create_dataset(name, shape, kind, chunks=chunks)
    for read in (load_scene, load_images, _load_sample):
        with bounded():
            read(path)


def _load_sample(path):
    config = small_config(path.parent)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, resolution=16))
    SceneLoader((path,), config, training=True).load(0)


@quick
@given(changes=damages, kept=st.sampled_from([1.0, 1.0, 0.5]))
def test_damaged_safetensors(tmp_path, config, variables, changes, kept):
    weights = tmp_path / "model.safetensors"
    if not weights.exists():
        save_hugging_face_folder(tmp_path, variables, config.to_dict())
        (tmp_path / "SHA256SUMS").unlink()
        (tmp_path / "whole").write_bytes(weights.read_bytes())
    header = (tmp_path / "whole").read_bytes()
    # The header takes a small part of the file
    changes = [(where / 10, new) for where, new in changes]
    weights.write_bytes(damaged(header, changes, kept))
    with bounded():
        load_pretrained(tmp_path)


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "U8", "F8_E4M3", "F8_E8M0", "F4", "C64"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 8, 16, 2**62]), max_size=3),
        "data_offsets": st.sampled_from([[0, 64], [0, 0], [64, 64], [0, 8], [64, 0]]),
    }
)


@quick
@given(
    st.binary(max_size=60)
    | st.dictionaries(st.text(max_size=9), values | entries, max_size=3).map(json.dumps)
)
@example(json.dumps({"a": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}))
def test_safetensors_of_any_header(tmp_path, header):
    header = header if isinstance(header, bytes) else header.encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with bounded():
        read_safetensors(path)


def _read_pickle(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(8))
    with bounded():
        read_pt(path)


@quick
@given(changes=damages)
def test_damaged_pickles(tmp_path, changes):
    write_state_dict(tmp_path / "whole.pt", {"a": np.zeros(2), "b": np.ones((1, 2))}, epoch=3)
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        data = archive.read("archive/data.pkl")
    _read_pickle(tmp_path / "a.pt", damaged(data, changes))


@quick
@given(changes=damages, kept=st.floats(0.3, 1))
def test_damaged_pt(tmp_path, changes, kept):
    path = tmp_path / "a.pt"
    write_state_dict(path, {"a": np.zeros(2), "b": np.ones((1, 2))})
    path.write_bytes(damaged(path.read_bytes(), changes, kept))
    with bounded():
        read_pt(path)


nested = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(99))
"""A tuple that takes 2^99 steps to hash."""

opcodes = st.sampled_from(
    [
        bytes([code])
        for code in b"NK)]}.(0122tulasedRbQh\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94\x96"
    ]
    + [b"K\x01", b"h\x00", b"q\x00", b"r\xff\xff\xff\x7f", b"\x8c\x01a", b"\x8d" + b"\xff" * 8]
    + [nested, b"}" + nested + b"K\x01s", b"\x8f(" + nested + b"\x90"]
    + [b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"]
    + [b"ccollections\nOrderedDict\n", b"\x95" + b"\xff" * 8, b"\x8a\x09" + b"\xff" * 9]
)


@quick
@given(st.lists(opcodes, max_size=40))
def test_pickles_of_any_operations(tmp_path, parts):
    _read_pickle(tmp_path / "a.pt", b"\x80\x04" + b"".join(parts) + b".")


@quick
@given(damages)
def test_damaged_meshes(tmp_path, changes):
    import trimesh

    box = trimesh.creation.box()
    for suffix in ("obj", "ply", "glb"):
        path = tmp_path / f"a.{suffix}"
        content = TETRAHEDRON if suffix == "obj" else box.export(file_type=suffix)
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(damaged(content, changes))
        with bounded():
            load_mesh(path)


@quick
@given(changes=damages, kept=st.sampled_from([1.0, 1.0, 1.0, 0.5]))
def test_damaged_gltf(tmp_path, changes, kept):
    """A scene from Blender with a texture, lights and cameras; most damage is done to its JSON."""
    data = (Path(__file__).parent / "data" / "gltf" / "blender.glb").read_bytes()
    size = 20 + int.from_bytes(data[12:16], "little")
    path = tmp_path / "a.glb"
    path.write_bytes(damaged(data[:size], changes, kept) + data[size:])
    with bounded():
        load_scene(path)
    path.write_bytes(damaged(data, changes, kept))
    with bounded():
        load_scene(path)


@quick
@given(st.data())
def test_gltf_with_other_values(tmp_path, data):
    content = (Path(__file__).parent / "data" / "gltf" / "blender.glb").read_bytes()
    size = int.from_bytes(content[12:16], "little")
    value = json.loads(content[20 : 20 + size])
    *parents, last = data.draw(st.sampled_from(list(_places(value))))
    target = value
    for key in parents:
        target = target[key]
    target[last] = data.draw(values)
    text = json.dumps(value).encode()
    start = b"glTF" + (2).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    path = tmp_path / "a.glb"
    path.write_bytes(
        start + len(text).to_bytes(4, "little") + b"JSON" + text + content[20 + size :]
    )
    with bounded():
        load_scene(path)


@quick
@given(damages)
def test_damaged_exr(tmp_path, capfd, changes):
    path = tmp_path / "a.exr"
    save_exr(path, np.ones((8, 8, 3), np.float32))
    path.write_bytes(damaged(path.read_bytes(), changes))
    with bounded():
        load_exr(path)
    assert capfd.readouterr() == ("", "")
