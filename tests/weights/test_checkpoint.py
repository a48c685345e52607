"""Checkpoints of our own: whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.weights import checkpoint
from rf_jax.weights.checkpoint import load_checkpoint, save_checkpoint
from rf_jax.weights.pretrained import load_pretrained, save_hugging_face_folder


@pytest.fixture
def saved(tmp_path, config, variables):
    folder = tmp_path / "weights"
    save_checkpoint(folder, variables, config.to_dict())
    return folder


def test_round_trip(saved, config, variables):
    loaded, values = load_checkpoint(saved)
    assert values == config.to_dict()
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        assert isinstance(a, np.ndarray) and np.array_equal(a, b)


def test_saving_again_replaces(saved, config, variables):
    changed = jax.tree.map(lambda leaf: leaf + 1, variables)
    save_checkpoint(saved, changed, config.to_dict())
    loaded, _ = load_checkpoint(saved)
    assert np.array_equal(jax.tree.leaves(loaded)[0], jax.tree.leaves(changed)[0])


def test_a_failing_save_leaves_the_old_one_whole(saved, config, variables, monkeypatch):
    def fail(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(InputError, match=r"weights: cannot be written \(disk full\)"):
        save_checkpoint(saved, variables, config.to_dict())
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]
    load_checkpoint(saved)


def test_a_failing_rename_puts_the_old_one_back(saved, config, variables, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if self.name == "checkpoint":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(saved, jax.tree.map(np.zeros_like, variables), config.to_dict())
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]
    loaded, _ = load_checkpoint(saved)
    assert np.array_equal(jax.tree.leaves(loaded)[0], jax.tree.leaves(variables)[0])


# Files end at a size limit, as on a full disk: the configuration's, or those of Orbax's threads.
FULL_DISK = """
import pathlib, resource, signal, sys
from rf_jax.weights.checkpoint import load_checkpoint, save_checkpoint
from rf_jax.command_line import run_command_line

folder = pathlib.Path(sys.argv[1])
variables, values = load_checkpoint(folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
run_command_line(lambda: save_checkpoint(folder, variables, values))
"""


@pytest.mark.parametrize("limit", [10, 20_000])
def test_a_full_disk_leaves_the_old_one_whole(saved, limit):
    command = [sys.executable, "-c", FULL_DISK, str(saved), str(limit)]
    # The compilation cache would complain about the limit too.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {saved}: cannot be written")
    assert "File too large" in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]
    load_checkpoint(saved)


def test_a_file_in_the_way_is_named(tmp_path, config, variables):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match=r"file: cannot be written .*Not a directory"):
        save_checkpoint(file, variables, config.to_dict())
    with pytest.raises(InputError, match="file/below: cannot be written"):
        save_checkpoint(file / "below", variables, config.to_dict())
    assert file.read_text() == "x"


ONE_DEVICE = """
import pathlib, sys
import jax, numpy as np
from rf_jax.weights.checkpoint import load_checkpoint

assert jax.device_count() == 1
variables, _ = load_checkpoint(pathlib.Path(sys.argv[1]))
np.save(sys.argv[2], np.concatenate([np.ravel(x) for x in jax.tree.leaves(variables)]))
"""


def test_written_from_eight_devices_it_loads_on_one(tmp_path, config, variables):
    mesh = jax.make_mesh((8,), ("device",))
    replicated = jax.NamedSharding(mesh, jax.P())
    save_checkpoint(tmp_path / "w", jax.device_put(variables, replicated), config.to_dict())
    command = [sys.executable, "-c", ONE_DEVICE, str(tmp_path / "w"), str(tmp_path / "all.npy")]
    subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, check=True)
    expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])
    assert np.array_equal(np.load(tmp_path / "all.npy"), expected)


def test_other_folders_are_not_overwritten(tmp_path, config, variables):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="exists and is not a checkpoint"):
        save_checkpoint(tmp_path, variables, config.to_dict())


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_checkpoints_are_named(saved, damage):
    files = sorted(path for path in (saved / "variables").rglob("*") if path.is_file())
    for path in files:
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"weights(/var\S+: damaged|: expected a)") as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)


def test_checkpoints_without_checksums_are_accepted_while_orbax_can_read_them(saved, variables):
    (saved / "variables" / "SHA256SUMS").unlink()
    loaded, _ = load_checkpoint(saved)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    for path in saved.rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="weights: expected a whole Orbax checkpoint"):
        load_checkpoint(saved)


def test_a_flipped_bit_is_never_read_as_other_weights(saved):
    for path in sorted((saved / "variables").rglob("*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"weights/variables/\S+: (damaged|missing)"):
            load_checkpoint(saved)
        path.write_bytes(whole)
    load_checkpoint(saved)


def test_checksums_name_no_files_elsewhere(saved):
    """Reading /dev/zero would never end."""
    with (saved / "variables" / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  /dev/zero\n")
    with pytest.raises(InputError, match="SHA256SUMS: expected files of this folder"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json: no such file"),
        ("{", "config.json: not JSON at line 1, column 2"),
        ("[1]", "config.json: expected a JSON object, found list"),
        ("[" * 100_000, "config.json: JSON nested too deeply"),
    ],
)
def test_bad_configurations_are_named(saved, text, message):
    path = saved / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)


def test_the_configuration_of_another_network_is_refused(saved, config):
    values = config.to_dict() | {"num_layers": 3}
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"misshaped: params/view_independent/layers.*\(3, "):
        load_pretrained(saved)


def test_hugging_face_folders_load_alike(tmp_path, saved, config, variables):
    folder = tmp_path / "torch"
    save_hugging_face_folder(folder, variables, config.to_dict())
    ours, theirs = load_pretrained(saved), load_pretrained(folder)
    assert ours[1] == theirs[1]
    for a, b in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(theirs[0]), strict=True):
        assert np.array_equal(a, b)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        load_pretrained(folder)


def test_arrays_of_more_than_is_stored(tmp_path, config):
    save_checkpoint(
        tmp_path / "a", {"params": {"a": np.zeros(2**28 + 1, np.int8)}}, config.to_dict()
    )
    with pytest.raises(InputError, match="found: arrays of 268,435,457 bytes, of which"):
        load_checkpoint(tmp_path / "a")
