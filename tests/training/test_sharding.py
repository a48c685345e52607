"""One training run on any number of devices and processes."""

import dataclasses
import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import finish, free_port
from settings import small_config

from rf_jax.attention import get_attention
from rf_jax.attention.sharding import shard_attention
from rf_jax.errors import InputError
from rf_jax.training import sharding
from rf_jax.training.data import BatchStream
from rf_jax.training.loop import train_and_evaluate
from rf_jax.training.sharding import BATCH_AXES, batch_sharding, make_mesh, usable_devices

SCRIPT = Path(__file__).with_name("sharded_steps.py")


def start(out, data, *arguments):
    command = [sys.executable, str(SCRIPT), str(out), str(data), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_devices_and_processes_change_nothing(data, tmp_path):
    """One device; 8 data-parallel; and 2 processes of 4 devices each, 2 x 4 fsdp."""
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    finish(start(one, data, "1x1", "8x1"))
    port = free_port()
    finish(*(start(two, data, "2x4", "--join", port, i) for i in (0, 1)))
    alone, joined = np.load(one), np.load(two)
    for results, mesh in ((alone, "8x1"), (joined, "2x4")):
        for kind, tolerance in (("params", 1e-9), ("losses", 1e-12)):
            np.testing.assert_allclose(
                results[f"{mesh}/{kind}"],
                alone[f"1x1/{kind}"],
                rtol=tolerance,
                err_msg=f"{mesh} {kind}",
            )


def stop_after(batches, monkeypatch):
    """SIGTERM comes while the run reads that batch."""
    numbers, read = itertools.count(1), BatchStream.__next__

    def read_or_stop(stream):
        if next(numbers) == batches:
            signal.raise_signal(signal.SIGTERM)
        return read(stream)

    monkeypatch.setattr(BatchStream, "__next__", read_or_stop)


def test_a_sharded_run_that_was_stopped_continues_on_any_mesh(data, tmp_path, monkeypatch):
    """On 8 devices, pairs of which split the parameters; then on 4 that split them among all."""
    monkeypatch.setattr(sharding, "SMALLEST_SPLIT", 1)
    config = small_config(
        data, batch_size=8, fsdp=2, ema_decay=0.9, checkpoint_every_steps=100, learning_rate=1e-4
    )
    whole = train_and_evaluate(config, tmp_path / "whole")
    assert not jax.tree.leaves(whole.params["view_independent"])[0].sharding.is_fully_replicated
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        stopped = train_and_evaluate(config, tmp_path / "run")
    assert int(stopped.step) == 3
    shutil.copytree(tmp_path / "run", tmp_path / "moved")

    resumed = train_and_evaluate(config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)

    def train_on_four(steps):
        moved = dataclasses.replace(config, fsdp=4, total_steps=steps)
        return train_and_evaluate(moved, tmp_path / "moved", jax.devices()[:4])

    restored = train_on_four(3)
    jax.tree.map(np.testing.assert_array_equal, restored, stopped)
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(restored))
    continued = train_on_four(6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), continued.params, whole.params
    )


def test_meshes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match=r"config.fsdp: expected a divisor of 1 devices, found 2"):
        make_mesh(2, 8, jax.devices()[:1])
    with pytest.raises(InputError, match=r"multiple of 8 devices.*found 6; take 8"):
        make_mesh(1, 6, devices=[None] * 8)


@pytest.mark.parametrize(
    ("fsdp", "scenes", "expected"), [(1, 8, 8), (1, 4, 4), (1, 12, 6), (2, 12, 6), (3, 6, 6)]
)
def test_a_small_batch_takes_as_many_devices_as_can_share_it(
    fsdp, scenes, expected, caplog, monkeypatch
):
    used = usable_devices(fsdp, scenes, jax.devices())
    assert len(used) == expected and make_mesh(fsdp, scenes, used).size == expected
    assert (f"{expected} of 8 devices are used" in caplog.text) == (expected < 8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert usable_devices(fsdp, scenes, jax.devices()) == jax.devices()


@pytest.mark.parametrize("lengths", [None, [3, 8, 1, 5, 2, 7, 4, 6]])
def test_hand_written_kernels_see_the_rows_of_their_device(lengths):
    mesh, flash = make_mesh(2, 8), get_attention("flash")
    rng = np.random.default_rng(0)
    qkv = [jnp.asarray(rng.normal(size=(8, 8, 1, 16)), jnp.float32) for _ in range(3)]
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    arguments = (*qkv, lengths)

    def gradient(attention):
        attention_fn = attention.bind()

        def total(query, key, value, lengths):
            return jnp.square(attention_fn(query, key, value, lengths)).sum()

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))

    split = jax.device_put(arguments, batch_sharding(mesh))
    found = gradient(shard_attention(flash, mesh, BATCH_AXES))(*split)
    for a, b in zip(found, gradient(flash)(*arguments), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert a.sharding.is_equivalent_to(batch_sharding(mesh), 4)
