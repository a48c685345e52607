"""The stream of batches: order, shards, resume, bad files, augmentation."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import write_scene, write_scenes
from settings import small_config

from rf_jax.errors import InputError
from rf_jax.structs import Batch
from rf_jax.training import augment
from rf_jax.training import data as data_module
from rf_jax.training.data import BatchStream, SceneLoader
from rf_jax.training.scene_files import find_training_files
from rf_jax.training.sharding import make_mesh
from rf_jax.training.steps import make_loss_fn, make_model
from rf_jax.weights.random_weights import random_variables


def make_stream(config, start=0, stop=None, shard=(0, 1), training=True):
    files = tuple(find_training_files(config, "train"))
    return BatchStream(SceneLoader(files, config, training), config.batch_size, start, stop, shard)


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batches_are_the_same_from_any_start_with_any_workers(data):
    config = small_config(data, batch_size=4)
    batches = take(make_stream(config), 7)
    assert_equal(take(make_stream(config, start=5), 2), batches[5:])
    workers = dataclasses.replace(config.data, workers=2)
    assert_equal(take(make_stream(dataclasses.replace(config, data=workers), 4), 3), batches[4:])


def test_processes_read_the_parts_of_one_batch(data):
    config = small_config(data, batch_size=4)
    whole = take(make_stream(config), 4)
    parts = [take(make_stream(config, shard=(i, 2)), 4) for i in (0, 1)]
    for i, batch in enumerate(whole):
        joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), parts[0][i], parts[1][i])
        assert_equal(joined, batch)


def test_each_epoch_reads_all_files_in_another_order(data):
    config = small_config(data, batch_size=5)
    files = np.concatenate([b.file for b in take(make_stream(config), 6)]).reshape(3, 10)
    for epoch in files:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in files}) == 3
    other = take(make_stream(dataclasses.replace(config, seed=1)), 2)
    assert tuple(np.concatenate([b.file for b in other])) != tuple(files[0])


def test_views_are_drawn_without_replacement(tmp_path):
    write_scene(tmp_path / "a.h5", views=3)
    with h5py.File(tmp_path / "a.h5") as file:
        fov, images = file["fov"][:], file["img"][:]
    config = small_config(tmp_path, data_views=2)
    drawn = set()
    for batch in take(make_stream(config), 20):
        for fovs, pictures in zip(batch.fov_degrees, batch.images, strict=True):
            views = [int(np.flatnonzero(fov == f)[0]) for f in fovs]
            assert len(set(views)) == 2
            np.testing.assert_array_equal(pictures, images[views][..., :3])
            drawn.add(tuple(views))
    assert len(drawn) == 6


def test_crops_are_patches_of_the_image(data):
    config = small_config(data, data_crop=8)
    origins = set()
    for batch in take(make_stream(config), 20):
        for row in range(2):
            with h5py.File(find_training_files(config, "train")[batch.file[row]]) as file:
                view = np.flatnonzero(file["fov"][:] == batch.fov_degrees[row, 0])[0]
                image = file["img"][view]
            i, j = batch.crop_origin[row, 0]
            origins.add((i, j))
            np.testing.assert_array_equal(batch.images[row, 0], image[i : i + 8, j : j + 8, :3])
    assert origins == {(0, 0), (0, 8), (8, 0), (8, 8)}


def test_rigid_motions_have_the_published_distribution():
    rng = np.random.default_rng(0)
    motions = [augment.random_rigid_motion(rng) for _ in range(4000)]
    rotations, translations = (np.stack(x).astype(np.float64) for x in zip(*motions, strict=True))
    identity = np.eye(3) + 0 * rotations
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), identity, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)
    # The angle is the norm of a 3D Gaussian folded into [0, pi]: E[cos] = (1 - 1) exp(-1/2) = 0.
    cosines = (rotations.trace(axis1=1, axis2=2) - 1) / 2
    assert abs(cosines.mean()) < 0.05
    np.testing.assert_allclose(translations.std(0), 0.25, rtol=0.05)
    assert np.abs(translations.mean(0)).max() < 0.02


@pytest.fixture(scope="module")
def loss_of():
    config = small_config("")
    variables = random_variables(config.model, seed=0)
    model = make_model(config, make_mesh(1, 1, jax.devices()[:1]))
    loss_fn = jax.jit(make_loss_fn(config, model, None))

    def loss(batch: Batch):
        batch = jax.tree.map(jnp.asarray, batch)
        return float(loss_fn(variables["params"], variables["constants"], batch, None)[0])

    return loss


def test_published_layout_and_its_small_twin_give_the_same_loss(tmp_path, loss_of):
    losses = []
    for full in (False, True):
        folder = write_scenes(tmp_path / str(full), 2, full_texture=full)
        losses.append(loss_of(take(make_stream(small_config(folder)), 1)[0]))
    assert losses[0] == losses[1] > 0


def test_the_augmentation_is_seen_by_the_first_stage_only(data, loss_of):
    moved = take(make_stream(small_config(data)), 1)[0]
    still = take(make_stream(small_config(data, data_augment=False)), 1)[0]
    assert_equal(moved.replace(rotation=still.rotation, translation=still.translation), still)
    assert loss_of(moved) != loss_of(still)


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_files_are_replaced_and_counted(data, tmp_path, caplog):
    folder = shutil.copytree(data, tmp_path / "data")
    damage(folder / "scene_3.h5")
    config = small_config(folder, batch_size=5)
    batches = take(make_stream(config), 4)
    skipped = np.concatenate([b.skipped for b in batches])
    assert skipped.sum() >= 2
    assert 3 not in np.concatenate([b.file for b in batches])
    assert "scene_3.h5" in caplog.text
    assert_equal(take(make_stream(config, start=2), 2), batches[2:])


@pytest.mark.parametrize("odd", ["light", np.float16(1), np.array([1, 2], "datetime64[s]")])
def test_files_with_odd_images_are_skipped(data, tmp_path, odd):
    folder = shutil.copytree(data, tmp_path / "data")
    with h5py.File(folder / "scene_3.h5", "a") as file:
        del file["img"]
        file["img"] = odd.astype(h5py.opaque_dtype(odd.dtype)) if np.ndim(odd) else odd
    files = tuple(sorted(folder.glob("*.h5")))
    with contextlib.closing(BatchStream(SceneLoader(files, small_config(folder), True), 10)) as s:
        batch = next(s)
    assert batch.skipped.sum() >= 1 and 3 not in batch.file


def test_workers_that_die_are_replaced(data, caplog):
    config = small_config(data, data_workers=2)
    expected = take(make_stream(small_config(data)), 6)
    stream = make_stream(config)
    found = [next(stream)]
    # All of them, because a death is seen only once there is no result to take.
    for worker in multiprocessing.active_children():
        worker.kill()
    found += [next(stream) for _ in range(5)]
    stream.close()
    assert_equal(found, expected)
    assert "a process that reads data died" in caplog.text


def test_workers_that_die_again_and_again_end_the_run(data, monkeypatch):
    monkeypatch.setattr(data_module, "_load_in_worker", os._exit)
    stream = make_stream(small_config(data, data_workers=1))
    with contextlib.closing(stream), pytest.raises(InputError, match="died 3 times at one batch"):
        next(stream)


def test_nothing_but_damaged_files_is_an_error(tmp_path):
    write_scenes(tmp_path, 2)
    for path in tmp_path.iterdir():
        damage(path)
    with pytest.raises(InputError, match=r"10 files in a row cannot be used.*scene_"):
        next(make_stream(small_config(tmp_path)))


def test_oversize_scenes_are_skipped_or_refused(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    write_scene(folder / "big.h5", triangles=20)
    batches = take(make_stream(small_config(folder, batch_size=11)), 1)
    assert batches[0].skipped.sum() >= 1
    config = small_config(folder, batch_size=11, data_oversize="error")
    with pytest.raises(InputError, match=r"big.h5: expected at most 8 triangles.*found 20"):
        next(make_stream(config))


def test_the_index_names_splits_and_sizes(data, tmp_path, caplog):
    folder = shutil.copytree(data, tmp_path / "data")
    rows = [
        {"file": f"scene_{i}.h5", "triangles": 100 if i == 9 else 6, "split": split}
        for i, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test", "train"])
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config(folder)
    names = [path.stem for path in find_training_files(config, "train")]
    assert names == [f"scene_{i}" for i in range(6)]
    assert "1 of 7 train scenes have more than 8 triangles" in caplog.text
    assert len(find_training_files(config, "val")) == 2
    refuse = small_config(folder, data_oversize="error")
    assert len(find_training_files(refuse, "train")) == 7
    (folder / "index.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"line 1: file: expected a string, found null"):
        find_training_files(config, "train")


def test_bad_folders_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"expected a folder of .h5 files"):
        find_training_files(small_config(tmp_path / "none"), "train")
    with pytest.raises(InputError, match="found none"):
        find_training_files(small_config(tmp_path), "train")
    folder = shutil.copytree(data, tmp_path / "mixed")
    write_scene(folder / "a.h5", side=32)
    with pytest.raises(InputError, match=r"a.h5: expected images of 16 pixels.*found 32"):
        find_training_files(small_config(folder), "train")
    with h5py.File(folder / "a.h5", "a") as file:
        del file["img"]
    with pytest.raises(InputError, match="img: missing"):
        find_training_files(small_config(folder), "train")


def test_validation_fills_the_last_batch_with_rows_of_no_weight(data):
    config = small_config(data, batch_size=4)
    batches = take(make_stream(config, training=False), 3)
    assert [b.weight.tolist() for b in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    assert np.concatenate([b.file for b in batches]).tolist() == [*range(10), 0, 1]
