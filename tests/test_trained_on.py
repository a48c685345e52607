"""What weights were trained on stands in their config.json."""

import json

import pytest

from rf_jax.errors import InputError
from rf_jax.models import RenderFormerConfig
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.random_scene import random_scene
from rf_jax.trained_on import PUBLISHED, TrainedOn
from rf_jax.training.checkpoints import save_network_config
from rf_jax.training.config import DataConfig, TrainingConfig
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import (
    BUNDLED_WEIGHTS,
    load_pretrained,
    save_hugging_face_folder,
)


def test_it_is_read_back_from_the_key_that_it_writes():
    known = TrainedOn(64, triangles=104, fov=(35.0, 42.0), white=True)
    assert TrainedOn.from_config(json.loads(json.dumps(known.to_config()))) == known
    assert list(known.to_config()["trained_on"]) == ["resolution", "triangles", "fov", "white"]


def test_published_files_lack_the_key_and_mean_the_published_scenes():
    assert TrainedOn.from_config(RenderFormerConfig().to_dict()) == PUBLISHED
    assert PUBLISHED.resolution == 512


def test_both_kinds_of_files_keep_it(tmp_path, config, variables):
    values = config.to_dict() | TrainedOn(32).to_config()
    save_checkpoint(tmp_path / "ours", variables, values)
    ours = load_pretrained(tmp_path / "ours")
    save_hugging_face_folder(tmp_path / "torch", ours.variables, ours.values)
    published = load_pretrained(tmp_path / "torch")
    assert ours.trained_on == published.trained_on == TrainedOn(32)
    assert ours.config == config


def test_a_run_writes_its_resolution(tmp_path, config):
    data = DataConfig(resolution=40, max_triangles=77)
    save_network_config(TrainingConfig(model=config, data=data), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert TrainedOn.from_config(values) == TrainedOn(40, triangles=77)


def test_the_default_resolution_is_that_of_the_weights(tmp_path, config, variables):
    save_checkpoint(tmp_path / "w", variables, config.to_dict() | TrainedOn(16).to_config())
    image = Renderer.from_pretrained(tmp_path / "w").render(random_scene(5))
    assert image.shape == (1, 1, 16, 16, 3)
    assert load_pretrained(BUNDLED_WEIGHTS).trained_on.resolution == 64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "config.json: trained_on.resolution: missing key"),
        ({"resolution": 0}, "config.json: trained_on.resolution: expected an integer >= 1"),
        (64, "config.json: trained_on: expected a JSON object"),
        ({"resolution": 8, "fov": [3, 2]}, "trained_on.fov: expected .low, high., low <= high"),
    ],
)
def test_damage_is_refused(tmp_path, config, variables, value, message):
    save_checkpoint(tmp_path / "w", variables, config.to_dict() | {"trained_on": value})
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path / "w")
