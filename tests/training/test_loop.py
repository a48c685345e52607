"""Whole runs: what they write, and what stops them."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import logged_losses, logged_values
from settings import MODEL, ROOT, small_config, train

from rf_jax.config_files import parse_config
from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_h5
from rf_jax.training.config import TrainingConfig
from rf_jax.training.data import BatchStream
from rf_jax.training.loop import Run
from rf_jax.training.scene_files import find_training_files
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import load_pretrained


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
    found = logged_losses(workdir)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(list(found.values())).all() and found[6] < found[1]
    assert int(state.step) == 6 and int(state.nonfinite) == 0
    saved = json.loads((workdir / "training_config.json").read_text())
    assert parse_config(TrainingConfig, saved) == config
    assert (workdir / "revision.txt").read_text().strip()
    tags = {tag for tag, _, _ in logged_values(workdir)}
    assert {
        "train/loss", "train/l1", "train/lpips", "train/psnr", "train/learning_rate",
        "train/gradient_norm", "train/nonfinite_steps", "train/skipped_scenes",
        "speed/images_per_second", "speed/tflops", "speed/fraction_of_products",
        "speed/input_wait", "validation/psnr", "validation/ssim", "validation/lpips",
        "validation/prediction_truth", "train/prediction_truth",
    } <= tags  # fmt: skip


def test_the_average_is_saved_and_rendered(finished, data):
    _, workdir, state = finished
    variables, config, _ = load_pretrained(workdir)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.ema)
    assert not np.array_equal(*(jax.tree.leaves(x)[0] for x in (state.ema, state.params)))
    scene = load_h5(find_training_files(small_config(data), "train")[0])
    image = Renderer.from_pretrained(workdir).render(scene, 16)
    assert image.shape == (1, 2, 16, 16, 3) and np.isfinite(image).all()
    assert config == MODEL


def test_convert_weights_exports_a_run_in_progress(finished, tmp_path):
    _, workdir, state = finished
    command = [sys.executable, "convert_weights.py", "--to_torch", str(workdir), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    variables = load_pretrained(tmp_path).variables
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


def test_many_bad_steps_stop_the_run_and_name_the_files(data, tmp_path, monkeypatch, caplog):
    read = BatchStream.__next__

    def read_spoilt(stream):
        batch = read(stream)
        return batch.replace(images=batch.images * np.float16(np.nan))

    monkeypatch.setattr(BatchStream, "__next__", read_spoilt)
    config = small_config(data, max_nonfinite_in_a_row=2)
    with pytest.raises(InputError, match=r"step 3: 3 steps in a row.*scene_\d.h5"):
        train(config, tmp_path / "run")
    assert "step 1 skipped: its gradient is not finite" in caplog.text


def test_too_many_unusable_files_stop_the_run(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    for path in list(folder.glob("*.h5"))[:6]:
        path.write_bytes(b"")
    config = small_config(folder, data_max_skipped_fraction=0.2)
    with pytest.raises(InputError, match="files read were unusable, more than"):
        train(config, tmp_path / "run")


def test_lpips_is_compared_before_it_is_put_on_devices(data, lpips_weights, tmp_path, monkeypatch):
    """Putting it on the devices of all processes waits for one that has no weights."""

    def differ(_):
        raise InputError("not the same")

    monkeypatch.setattr(Run, "_check_same_inputs", differ)
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("waits for the others"))
    config = small_config(data, lpips_weight=0.05, lpips_weights=str(lpips_weights))
    with pytest.raises(InputError, match="not the same"):
        train(config, tmp_path / "run")


def test_lpips_is_never_left_out_silently(data, tmp_path):
    config = small_config(data, lpips_weight=0.05, lpips_weights=str(tmp_path))
    with pytest.raises(InputError, match=r"lacks vgg16_weights.h5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
