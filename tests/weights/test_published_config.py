"""Folders of RenderFormer V2: the forms of their configuration, and the way there and back."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rf_jax.errors import InputError
from rf_jax.models import VARIANTS
from rf_jax.weights import convert
from rf_jax.weights.pretrained import load_pretrained, save_hugging_face_folder
from rf_jax.weights.random_weights import random_variables
from rf_jax.weights.torch_files import read_safetensors

TINY = Path(__file__).parents[1] / "data" / "goldens_v2" / "tiny" / "checkpoint"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(TINY, tmp_path / "published"))


def test_there_and_back_bit_for_bit(folder, tmp_path):
    variables, config, values = load_pretrained(folder)
    save_hugging_face_folder(tmp_path / "back", variables, values)
    name = "model.safetensors"
    assert not (tmp_path / "back" / "config.json").exists()
    again = load_pretrained(tmp_path / "back")
    assert (again.config, again.values) == (config, values)
    expected, found = read_safetensors(folder / name), read_safetensors(tmp_path / "back" / name)
    assert expected.keys() == found.keys()
    assert all(expected[key].tobytes() == found[key].tobytes() for key in expected)


def test_every_variable_has_one_tensor():
    config = VARIANTS["testing_v2"]
    tensors = convert.to_torch(random_variables(config, seed=0), config)
    assert len(tensors) == len(convert.rules(config))
    assert {rule.path for rule in convert.rules(config)} == set(convert.variable_shapes(config))


def test_a_missing_tensor_is_named(folder):
    variables, config, _ = load_pretrained(folder)
    tensors = convert.to_torch(variables, config)
    del tensors["volume_encoder.vol_token"]
    with pytest.raises(InputError, match=r"1 missing: volume_encoder\.vol_token"):
        convert.from_torch(tensors, config)


def test_the_form_of_save_pretrained(folder):
    expected = load_pretrained(folder)
    (folder / "config.yaml").unlink()
    saved = {"format": "model", "format_version": 1, "model_config": expected.values}
    (folder / "model_config.json").write_text(json.dumps(saved))
    assert load_pretrained(folder).config == expected.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer_config": {"turn_to_cam_coord": True}}, "trainer_config.turn_to_cam_coord"),
        ({"trainer_config": {"learn_ldr": True}}, "trainer_config.learn_ldr"),
        ({"trainer_config": 3}, "trainer_config"),
        ({"model_config": None}, "model_config: expected an object"),
        ({"model_config": {"pe_type": "rope", "use_volumes": True}}, "use_volumes"),
    ],
)
def test_bad_sections_are_named(folder, change, message):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", "a: &x [1]\nb: *x", "!!python/name:os.system", "\0", "a: [" * 2000]
)
def test_unusable_yaml_is_one_line(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_configuration(folder):
    (folder / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.json or config\.yaml or model_config\.json"):
        load_pretrained(folder)
