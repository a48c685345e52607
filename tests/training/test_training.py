"""Whole runs: what they write, what they skip, what they start from."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kill_runs import losses
from settings import MODEL, small_config, train
from tensorboardX.proto import event_pb2

from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_h5
from rf_jax.training import loop, sharding
from rf_jax.training.data import BatchStream, SceneLoader, find_training_files
from rf_jax.training.loop import compile_steps, warm_start
from rf_jax.training.steps import init_variables, make_model
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import load_pretrained
from rf_jax.weights.random_weights import random_variables

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(data, lpips_weights, tmp_path_factory):
    """A run with everything on: LPIPS, averaging, validation, images, remat, accumulation."""
    workdir = tmp_path_factory.mktemp("finished")
    config = small_config(
        data,
        total_steps=6,
        batch_size=4,
        accumulation_steps=2,
        precision="bf16",
        remat=True,
        ema_decay=0.9,
        lpips_weight=0.05,
        lpips_weights=str(lpips_weights),
        validate_every_steps=3,
        image_every_steps=3,
        checkpoint_every_steps=2,
        data_validation_path=str(data),
        data_crop=16,
    )
    return config, workdir, train(config, workdir)


def test_a_run_writes_what_it_promises(finished):
    config, workdir, state = finished
    found = losses(workdir)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(list(found.values())).all() and found[6] < found[1]
    assert int(state.step) == 6 and int(state.nonfinite) == 0
    saved = json.loads((workdir / "training_config.json").read_text())
    assert loop.parse_training_config(saved) == config
    assert (workdir / "revision.txt").read_text().strip()
    tags = tags_of(workdir)
    assert {
        "train/loss", "train/l1", "train/lpips", "train/psnr", "train/learning_rate",
        "train/gradient_norm", "train/nonfinite_steps", "train/skipped_scenes",
        "speed/images_per_second", "speed/tflops", "speed/fraction_of_products",
        "speed/input_wait", "validation/psnr", "validation/ssim", "validation/lpips",
        "validation/prediction_truth", "train/prediction_truth",
    } <= tags  # fmt: skip


def tags_of(workdir):
    tags = set()
    for path in (workdir / "tensorboard").iterdir():
        data, start = path.read_bytes(), 0
        while start < len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            event = event_pb2.Event.FromString(data[start + 12 : start + 12 + length])
            tags |= {value.tag for value in event.summary.value}
            start += length + 16
    return tags


def test_the_average_is_saved_and_rendered(finished, data):
    _, workdir, state = finished
    variables, values = load_pretrained(workdir)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.ema)
    assert not np.array_equal(*(jax.tree.leaves(x)[0] for x in (state.ema, state.params)))
    scene = load_h5(find_training_files(small_config(data), "train")[0])
    image = Renderer.from_pretrained(workdir).render(scene, 16)
    assert image.shape == (1, 2, 16, 16, 3) and np.isfinite(image).all()
    assert values["num_layers"] == 1


def test_convert_weights_exports_a_run_in_progress(finished, tmp_path):
    _, workdir, state = finished
    command = [sys.executable, "convert_weights.py", "--to_torch", str(workdir), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    variables, _ = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables, state.variables)


def test_converting_onto_a_workdir_is_refused(finished):
    config, workdir, state = finished
    with pytest.raises(InputError, match="exists and is not a checkpoint of this kind"):
        save_checkpoint(workdir, state.variables, config.model.to_dict())
    assert (workdir / "checkpoints" / "6").is_dir()


def test_a_workdir_without_a_checkpoint_says_so(finished, tmp_path):
    _, workdir, _ = finished
    shutil.copy(workdir / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="without a checkpoint yet"):
        load_pretrained(tmp_path)


def first_steps(config, variables=None, count=3, change=None):
    """States and metrics of the first steps, without files."""
    mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:1])
    steps = compile_steps(config, mesh, make_model(config, mesh), None)
    if variables is None:
        variables = init_variables(config.model, config.seed)
    state = steps.create(variables)
    loader = SceneLoader(tuple(find_training_files(config, "train")), config, training=True)
    history = []
    for i, batch in enumerate(BatchStream(loader, config.batch_size, 0, count)):
        if change is not None:
            batch = change(i, batch)
        state, metrics = steps.train(state, sharding.to_devices(batch, mesh), None)
        history.append((jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}))
    return history


@pytest.fixture(scope="module")
def variables():
    return random_variables(MODEL, seed=0)


def test_accumulation_and_rematerialisation_change_nothing_but_memory(data, variables):
    runs = [
        first_steps(small_config(data, batch_size=4, **changes), variables)
        for changes in ({}, {"accumulation_steps": 2}, {"remat": True})
    ]
    for run in runs[1:]:
        for (_, expected), (_, found) in zip(runs[0], run, strict=True):
            for name in ("loss", "gradient_norm", "psnr"):
                np.testing.assert_allclose(found[name], expected[name], rtol=2e-5)


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


def test_many_bad_steps_stop_the_run_and_name_the_files(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("rf_jax.training.losses.log_radiance", lambda x: x * jnp.nan)
    config = small_config(data, max_nonfinite_in_a_row=2)
    with pytest.raises(InputError, match=r"step 3: 3 steps in a row.*scene_\d.h5"):
        train(config, tmp_path)
    assert "step 1 skipped: its gradient is not finite" in caplog.text


def test_too_many_unusable_files_stop_the_run(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    for path in list(folder.glob("*.h5"))[:6]:
        path.write_bytes(b"")
    config = small_config(folder, data_max_skipped_fraction=0.2)
    with pytest.raises(InputError, match="files read were unusable, more than"):
        train(config, tmp_path / "run")


def test_averaging_follows_its_formula(data, variables):
    history = first_steps(small_config(data, ema_decay=0.75), variables)
    expected = variables["params"]
    for state, _ in history:
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        history[-1][0].ema,
        expected,
    )


def test_projections_are_redrawn_on_time_and_never_trained(data):
    model = dataclasses.replace(MODEL, view_independent_attention="performer")
    config = small_config(data, model=model, performer_redraw_every_steps=2)
    variables = jax.jit(init_variables, static_argnums=(0, 1))(model, 0)
    history = first_steps(config, variables, count=4)
    drawn = [state.constants["view_independent"]["layers"] for state, _ in history]
    drawn = [np.asarray(jax.tree.leaves(x)[0]) for x in drawn]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[2], drawn[3])
    assert not np.array_equal(drawn[1], drawn[2])
    frequencies = history[-1][0].constants["view_independent"]["rope_frequencies"]
    np.testing.assert_array_equal(
        frequencies, variables["constants"]["view_independent"]["rope_frequencies"]
    )


@pytest.fixture
def checkpoint(variables, tmp_path):
    save_checkpoint(tmp_path / "weights", variables, MODEL.to_dict())
    return tmp_path / "weights"


def test_warm_start_takes_all_weights(checkpoint, variables, data, tmp_path):
    config = small_config(data, init_from=str(checkpoint))
    jax.tree.map(np.testing.assert_array_equal, warm_start(config), variables)
    still = dataclasses.replace(config, learning_rate=0.0, total_steps=1)
    state = train(still, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])


def test_warm_start_with_another_attention_draws_projections(checkpoint, variables, data):
    model = dataclasses.replace(MODEL, view_independent_attention="performer")
    started = warm_start(small_config(data, init_from=str(checkpoint), model=model))
    jax.tree.map(np.testing.assert_array_equal, started["params"], variables["params"])
    layers = started["constants"]["view_independent"]["layers"]
    assert len(jax.tree.leaves(layers)) == 1


def test_warm_start_is_strict_unless_told(checkpoint, data, caplog):
    model = dataclasses.replace(MODEL, dim_feedforward=64)
    config = small_config(data, init_from=str(checkpoint), model=model)
    with pytest.raises(InputError, match=r"3 misshaped: .*ffn/w1/kernel.*init_lenient"):
        warm_start(config)
    with caplog.at_level(logging.WARNING):
        started = warm_start(dataclasses.replace(config, init_lenient=True))
    assert "left out" in caplog.text and "ffn/w2/kernel" in caplog.text
    first = started["params"]["view_independent"]
    assert first["layers"]["ffn"]["w1"]["kernel"].shape == (1, 36, 64)


def test_lpips_is_never_left_out_silently(data, tmp_path):
    config = small_config(data, lpips_weight=0.05, lpips_weights=str(tmp_path))
    with pytest.raises(InputError, match=r"lacks vgg16_weights.h5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
