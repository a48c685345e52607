"""HDF5 files made to hurt: what a dataset declares is refused before anything of it is read."""

import os
import zlib

import h5py
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.hdf5 import has_dataset, numeric_dataset, opened_h5


def _virtual(file):
    layout = h5py.VirtualLayout((5, 3), "f4")
    layout[:] = h5py.VirtualSource(".", "x", (5, 3))
    file.create_virtual_dataset("x", layout)


def _growing_virtual(file):
    layout = h5py.VirtualLayout((5, 3), "f4", maxshape=(None, 3))
    source = h5py.VirtualSource(".", "x", (5, 3), maxshape=(None, 3))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("x", layout)


def _time(file):
    space = h5py.h5s.create_simple((5, 3))
    h5py.h5d.create(file.id, b"x", h5py.h5t.UNIX_D32LE, space)


def _compressed_twice(file):
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((2**20,))
    layout.set_deflate(9)
    layout.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
    space = h5py.h5s.create_simple((2**20,))
    dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, layout)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(2**20, "f4"))


def _large_chunk(file):
    file.create_dataset("x", (1,), "f4", maxshape=(None,), chunks=(2**28,), compression="gzip")
    file["x"].id.write_direct_chunk((0,), b"x")


def _chunk(file, filters, data):
    """One chunk of 1,024 numbers, stored as `data`."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((1024,))
    for code in filters:
        layout.set_filter(code, 0, (1024,))
    space = h5py.h5s.create_simple((1024,))
    dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, layout)
    dataset.write_direct_chunk((0,), data)


GZIP, LZF, SHUFFLE = (
    h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF, h5py.h5z.FILTER_SHUFFLE,
)  # fmt: skip

HOSTILE = {
    "bomb": (
        lambda f: _chunk(f, [GZIP], zlib.compress(bytes(2**21), 0)),
        "a chunk unpacks to more than it declares",
    ),
    "damaged chunk": (lambda f: _chunk(f, [GZIP], bytes(2**21)), "a chunk is damaged"),
    "hidden": (lambda f: _chunk(f, [GZIP, SHUFFLE], bytes(2**21)), "compressed last"),
    "lzf": (lambda f: _chunk(f, [LZF], bytes(2**21)), "expected smaller chunks with lzf"),
    "maps itself": (_virtual, "found a virtual or external dataset"),
    "grows with itself": (_growing_virtual, "found a virtual or external dataset"),
    "other file": (
        lambda f: f.create_dataset("x", (5,), "f4", external=[("pipe", 0, 20)]),
        "found a virtual or external dataset",
    ),
    "link to a file": (lambda f: f.update({"x": h5py.ExternalLink("pipe", "/x")}), "a link"),
    "link to itself": (lambda f: f.update({"x": h5py.SoftLink("/x")}), "a link"),
    "group": (lambda f: f.create_group("x"), "missing or damaged dataset; the file has x"),
    "terabytes": (lambda f: f.create_dataset("x", (10**12,), "f4"), "found only 0 bytes"),
    "empty chunks": (
        lambda f: f.create_dataset("x", (10**9,), "f4", chunks=(1024,)),
        "found only 0 bytes",
    ),
    "few chunks": (
        lambda f: f.create_dataset("x", (10**9,), "f4", compression="gzip").write_direct(
            np.ones(5, "f4"), dest_sel=np.s_[:5]
        ),
        "expected [1000000000] values, found only",
    ),
    "large chunk": (_large_chunk, "found only 1 bytes"),
    "twice": (_compressed_twice, "expected to be compressed once"),
    "filter": (
        lambda f: f.create_dataset("x", data=np.zeros(9, "i4"), chunks=(9,), scaleoffset=0),
        "expected gzip, lzf or no compression",
    ),
    "time": (_time, "expected an array of numbers, found another type"),
    "text": (lambda f: f.update({"x": "text"}), "expected an array of numbers, found object"),
    "texts": (lambda f: f.update({"x": np.array([b"a"])}), "expected an array of numbers"),
    "bool": (lambda f: f.update({"x": np.zeros(3, bool)}), "found bool"),
    "complex": (lambda f: f.update({"x": np.zeros(3, complex)}), "found complex128"),
    "compound": (lambda f: f.update({"x": np.zeros(3, [("a", "f4")])}), "array of numbers"),
    "reference": (lambda f: f.create_dataset("x", (3,), h5py.ref_dtype), "array of numbers"),
    "null": (lambda f: f.update({"x": h5py.Empty("f4")}), "expected an array of numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_dataset_is_refused_unread(tmp_path, monkeypatch, case):
    make, words = HOSTILE[case]
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")  # whoever opens it waits forever
    with h5py.File("a.h5", "w") as file:
        make(file)
    with pytest.raises(InputError) as error, opened_h5("a.h5") as file:
        numeric_dataset(file, "x")
    message = str(error.value)
    assert message.startswith("a.h5: x: ") and words in message and len(message) <= 300, message


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (7, 3)}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}],
)
def test_ordinary_datasets_pass(tmp_path, options):
    values = np.zeros((1000, 3), "f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("group/x", data=values, fletcher32="chunks" in options, **options)
    with opened_h5(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(numeric_dataset(file, "group/x")[:], values)


@pytest.mark.parametrize("fletcher32", [False, True])
def test_large_chunks_pass(tmp_path, fletcher32):
    values = np.random.default_rng(0).integers(0, 2**20, (4, 2**20))  # packed to 2.5 MB each
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = dict(chunks=(1, 2**20), compression="gzip", compression_opts=1)
        file.create_dataset("x", data=values, fletcher32=fletcher32, **options)
    with opened_h5(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(numeric_dataset(file, "x")[:], values)


def test_whether_there_is_a_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
    with opened_h5(tmp_path / "a.h5") as file:
        assert has_dataset(file, "link") and not has_dataset(file, "other")


def test_names_of_a_file_are_counted(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(500):
            file.create_group(f"{'n' * 20}\x1b{i:03}")
    with pytest.raises(InputError) as error, opened_h5(tmp_path / "a.h5") as file:
        numeric_dataset(file, "x")
    message = str(error.value)
    assert "\\x1b000, " in message and message.endswith("495 more") and len(message) <= 300
