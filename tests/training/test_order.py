"""Batches of scenes of about the same length: nothing is lost, little is padding."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scenes import write_scene
from settings import small_config, train

from rf_jax.errors import InputError
from rf_jax.models import RenderFormer
from rf_jax.training.data import BatchStream, SceneLoader
from rf_jax.training.order import POOL, BatchOrder
from rf_jax.training.scene_files import find_training_files, padded_lengths
from rf_jax.weights.random_weights import random_variables

LENGTHS = (8, 16, 32, 64)


def order(count=1000, batch_size=4, seed=0, shuffled=True):
    lengths = np.random.default_rng(1).choice(LENGTHS, count)
    return BatchOrder(tuple(int(n) for n in lengths), batch_size, seed, shuffled)


def test_every_pool_reads_the_files_that_come_next():
    mixed = order(count=POOL * 4)  # a pool is an epoch
    for epoch in range(3):
        positions = range(epoch * POOL * 4, (epoch + 1) * POOL * 4)
        files = [mixed.file_index(position) for position in positions]
        assert sorted(files) == list(range(POOL * 4))


def test_few_batches_hold_two_lengths_and_those_are_padded_to_the_longer():
    mixed = order()
    waste = []
    for batch in range(2 * POOL):
        positions = range(batch * 4, batch * 4 + 4)
        own = {mixed.lengths[mixed.file_index(position)] for position in positions}
        assert {mixed.padded_length(position) for position in positions} == {max(own)}
        waste.append(len(own) > 1)
    assert 0 < sum(waste) <= 2 * (len(LENGTHS) - 1)


def test_lengths_come_in_random_order_that_depends_on_the_seed():
    first, other = order(), order(seed=1)
    lengths = [[o.padded_length(4 * batch) for batch in range(POOL)] for o in (first, other)]
    assert lengths[0] != lengths[1]
    assert lengths[0] not in (sorted(lengths[0]), sorted(lengths[0], reverse=True))


def test_small_datasets_fill_large_batches():
    mixed = order(count=3, batch_size=8)
    files = [mixed.file_index(position) for position in range(POOL * 8)]
    assert max(np.bincount(files)) - min(np.bincount(files)) <= 1


def test_validation_goes_through_the_files_by_length():
    mixed = order(count=10, shuffled=False)
    files = [mixed.file_index(position) for position in range(10)]
    assert sorted(files) == list(range(10))
    lengths = [mixed.lengths[i] for i in files]
    assert lengths == sorted(lengths)


def test_another_file_fits_into_the_batch():
    mixed, rng = order(), np.random.default_rng(0)
    for position in range(200):
        other = mixed.draw_other(position, rng)
        assert mixed.lengths[other] <= mixed.padded_length(position)


@pytest.fixture(scope="module")
def mixed_data(tmp_path_factory):
    """Twelve scenes of 3 to 14 triangles, of which four are for validation."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = []
    for i in range(12):
        write_scene(folder / f"scene_{i}.h5", seed=i, triangles=3 + i)
        split = "val" if i % 3 == 0 else "train"
        rows.append({"file": f"scene_{i}.h5", "triangles": 3 + i, "split": split})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mixed_config(folder, **changes):
    return small_config(folder, data_max_triangles=16, data_shorter_lengths=(8,), **changes)


def test_padding_changes_no_image(mixed_data):
    config = mixed_config(mixed_data)
    files = tuple(find_training_files(config, "train"))
    lengths = padded_lengths(config, "train")
    assert lengths == (8, 8, 8, 8, 16, 16, 16, 16)
    short = SceneLoader(files, config, True, lengths)
    model, variables = RenderFormer(config.model), random_variables(config.model, 0)

    def arrays(batch):
        return batch.tokens.replace(num_triangles=np.zeros(1))

    def image(tokens, batch):
        inputs = tokens, batch.camera_to_world, batch.fov_degrees
        tokens, *cameras = jax.tree.map(lambda x: np.asarray(x)[None], inputs)
        encoding = model.apply(variables, tokens, method=RenderFormer.encode_scene)
        return model.apply(variables, encoding, *cameras, 16, method=RenderFormer.render_view)[0]

    batches = (short.load(position)[0] for position in range(100))
    batch = next(batch for batch in batches if len(batch.tokens.triangles) == 8)
    padded = jax.tree.map(lambda x: np.pad(x, [(0, 8)] + [(0, 0)] * (x.ndim - 1)), arrays(batch))
    padded = padded.replace(num_triangles=batch.tokens.num_triangles)
    np.testing.assert_allclose(image(batch.tokens, batch), image(padded, batch), atol=1e-5)


def test_batches_are_the_same_from_any_start_and_in_parts(mixed_data):
    config = mixed_config(mixed_data, batch_size=4)
    files, lengths = find_training_files(config, "train"), padded_lengths(config, "train")
    loader = SceneLoader(tuple(files), config, True, lengths)

    def take(start, stop, shard=(0, 1)):
        stream = BatchStream(loader, 4, start, stop, shard)
        batches = list(stream)
        stream.close()
        return batches

    whole = take(0, 6)
    for resumed, batch in zip(take(3, 6), whole[3:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, resumed, batch)
    for parts in zip(take(0, 6, (0, 2)), take(0, 6, (1, 2)), whole, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *parts[:2])
        jax.tree.map(np.testing.assert_array_equal, joined, parts[2])


@pytest.mark.slow
def test_a_run_trains_and_validates_on_several_lengths(mixed_data, tmp_path, capsys):
    state = train(mixed_config(mixed_data, validate_every_steps=3), tmp_path / "run")
    assert int(state.step) == 6
    assert capsys.readouterr().out.count("validation PSNR") == 2


def test_lengths_need_an_index(mixed_data, tmp_path):
    write_scene(tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"expected an index.jsonl.*shorter_lengths"):
        padded_lengths(mixed_config(tmp_path), "train")
    everywhere = small_config(tmp_path)
    assert padded_lengths(everywhere, "train") == (8,)


@pytest.mark.parametrize("lengths", [(8, 4), (4, 4), (8, 16), (32,)])
def test_lengths_ascend_below_the_largest(lengths):
    with pytest.raises(InputError, match="shorter_lengths: expected ascending numbers below"):
        mixed = mixed_config("data")
        dataclasses.replace(mixed, data=dataclasses.replace(mixed.data, shorter_lengths=lengths))


def test_an_index_that_is_wrong_is_reported(mixed_data, tmp_path):
    config = mixed_config(mixed_data)
    loader = SceneLoader((mixed_data / "scene_11.h5",), config, True, (8,))
    with pytest.raises(InputError, match="has 14 triangles, more than the index says"):
        loader.load(0)
