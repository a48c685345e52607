"""The compiled steps: what may change how they are computed, and what must not change at all."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import CONFIGS, MODEL, cast, small_config

from rf_jax.config_files import load_config_file
from rf_jax.geometry import look_at
from rf_jax.images.lpips import Perceptual
from rf_jax.training import sharding, steps
from rf_jax.training.augment import random_rigid_motion
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import BatchStream, SceneLoader, abstract_batch
from rf_jax.training.loop import compile_steps
from rf_jax.training.scene_files import find_training_files
from rf_jax.weights.random_weights import random_variables


def batches(config, count):
    loader = SceneLoader(tuple(find_training_files(config, "train")), config, training=True)
    return BatchStream(loader, config.batch_size, 0, count)


def first_steps(config, variables=None, count=3, change=None, dtype=jnp.float32):
    """States and metrics of the first steps on one device, in NumPy.

    Args:
      config: of the run.
      variables: to start from; None draws fresh ones.
      count: of steps.
      change: (number, batch) -> the batch to train on instead.
      dtype: of variables, batches and products.
    """
    mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:1])
    compiled = compile_steps(config, mesh, steps.make_model(config, mesh, dtype), None)
    state = compiled.init() if variables is None else compiled.create(cast(variables, dtype))
    history = []
    for i, batch in enumerate(batches(config, count)):
        batch = batch if change is None else change(i, batch)
        rows = sharding.to_devices(cast(batch, dtype), mesh)
        state, metrics = compiled.train(state, rows, None)
        history.append((jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}))
    return history


@pytest.fixture(scope="module")
def variables():
    return random_variables(MODEL, seed=0)


def test_accumulation_and_rematerialisation_change_only_memory(data, variables):
    """In float64: Adam turns the rounding of a tiny gradient into a step of full size."""
    with jax.enable_x64(True):
        whole, parts = (
            first_steps(small_config(data, batch_size=4, **changes), variables, dtype=jnp.float64)
            for changes in ({}, {"accumulation_steps": 2, "remat": True})
        )
    for (state, metrics), (expected_state, expected) in zip(parts, whole, strict=True):
        for name in ("loss", "gradient_norm", "psnr"):
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-9)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10),
            state.params,
            expected_state.params,
        )


def test_steps_without_a_finite_gradient_change_nothing(data, variables):
    def spoil(i, batch):
        images = batch.images.copy()
        images[0, 0, 0, 0] = np.nan if i == 1 else images[0, 0, 0, 0]
        return batch.replace(images=images)

    config = small_config(data, ema_decay=0.9)
    (a, _), (b, spoilt), (c, metrics) = first_steps(config, variables, change=spoil)
    assert np.isnan(spoilt["loss"]) and spoilt["nonfinite_in_a_row"] == 1
    for name in ("params", "opt_state", "ema", "constants"):
        jax.tree.map(np.testing.assert_array_equal, getattr(a, name), getattr(b, name))
    assert int(b.step) == 2 and metrics["nonfinite_in_a_row"] == 0
    assert metrics["nonfinite_steps"] == 1
    assert not np.array_equal(*(jax.tree.leaves(s.params)[0] for s in (b, c)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(c))
    # The average follows its formula, with a weight of nothing for the step that was skipped.
    expected = variables["params"]
    for state in (a, c):
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, expected, state.params)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), c.ema, expected
    )


def test_projections_are_redrawn_on_time_and_never_trained(data):
    model = dataclasses.replace(MODEL, view_independent_attention="performer")
    config = small_config(data, model=model, performer_redraw_every_steps=2)
    history = first_steps(config, count=4)
    drawn = [state.constants["view_independent"]["layers"] for state, _ in history]
    drawn = [np.asarray(jax.tree.leaves(x)[0]) for x in drawn]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[2], drawn[3])
    assert not np.array_equal(drawn[1], drawn[2])
    first, last = (history[i][0].constants["view_independent"] for i in (0, -1))
    np.testing.assert_array_equal(last["rope_frequencies"], first["rope_frequencies"])


def moved_by_hand(batch):
    """The batch with its rigid motion applied to triangles, normals and cameras, in NumPy."""
    rotation, translation = np.float64(batch.rotation), np.float64(batch.translation)

    def turn(vectors):
        return np.einsum("bij,bnvj->bnvi", rotation, vectors)

    tokens = batch.tokens.replace(
        triangles=turn(batch.tokens.triangles) + translation[:, None, None],
        vertex_normals=turn(batch.tokens.vertex_normals),
    )
    motion = np.tile(np.eye(4), (len(rotation), 1, 1, 1))
    motion[:, 0, :3, :3], motion[:, 0, :3, 3] = rotation, translation
    moved = batch.replace(tokens=tokens, camera_to_world=motion @ batch.camera_to_world)
    return without_motion(cast(moved, jnp.float32))


def without_motion(batch):
    rotation = np.broadcast_to(np.eye(3, dtype=np.float32), batch.rotation.shape)
    return batch.replace(rotation=rotation, translation=np.zeros_like(batch.translation))


@pytest.mark.parametrize("turn_to_cam_coord", [True, False])
def test_augmentation_moves_the_scene_and_its_cameras_together(data, variables, turn_to_cam_coord):
    model = dataclasses.replace(MODEL, turn_to_cam_coord=turn_to_cam_coord)
    config = small_config(data, model=model, data_views=2)
    batch = next(batches(config, 1))
    network = steps.make_model(config, sharding.make_mesh(1, 2, jax.devices()[:1]))
    predict = jax.jit(lambda batch: steps.predict(network, variables, batch, 16))
    found, expected, still = map(predict, (batch, moved_by_hand(batch), without_motion(batch)))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - still).max() > 1e-2


def test_a_moved_camera_looks_at_the_moved_target():
    rng = np.random.default_rng(0)
    rotation, translation = random_rigid_motion(rng)
    position, target, up = rng.normal(size=(3, 3))
    motion = SimpleNamespace(rotation=rotation[None], translation=translation[None])
    camera = jnp.asarray(look_at(position, target, up), jnp.float32)
    found = steps._move_cameras(camera[None, None], motion)
    expected = look_at(rotation @ position + translation, rotation @ target + translation,
                       rotation @ up)  # fmt: skip
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)


def test_batches_have_the_shapes_that_published_runs_are_traced_with(data):
    config = small_config(data, data_views=2, data_crop=8)
    found = jax.eval_shape(lambda batch: batch, next(batches(config, 1)))
    assert found == abstract_batch(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_published_configurations_trace(path, lpips_weights):
    """Shapes only, on as many of 8 devices as divide the batch: no memory, no compilation."""
    config = load_config_file(TrainingConfig, str(path), [])
    perceptual = Perceptual(str(lpips_weights), "bfloat16") if config.lpips_weight else None
    devices = jax.devices()[: math.gcd(8, config.batch_size)]
    mesh = sharding.make_mesh(config.fsdp, config.batch_size, devices)
    model = steps.make_model(config, mesh)
    distance, weights = (perceptual and (perceptual.distance, perceptual.params)) or (None, None)
    compiled = compile_steps(config, mesh, model, distance)
    batch, state = abstract_batch(config), compiled.abstract_state
    found, metrics = jax.eval_shape(compiled.train, state, batch, weights)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)),
                 found, state)  # fmt: skip
    assert ("lpips" in metrics) == (config.lpips_weight > 0)
    sums, images = jax.eval_shape(compiled.evaluate, state.variables, batch, weights)
    side = config.data.resolution
    assert [x.shape for x in images] == [(config.batch_size, side, side, 3)] * 2
    assert {x.shape for x in sums.values()} == {()}
