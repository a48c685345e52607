"""Configurations: those of configs/, and what is refused."""

import dataclasses

import pytest
from settings import CONFIGS, ROOT, small_config

from rf_jax import schema
from rf_jax.config_files import load_config_file, parse_config
from rf_jax.errors import InputError
from rf_jax.models import VARIANTS
from rf_jax.training.config import (
    TrainingConfig,
    check_continues,
    default_config,
    save_config,
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_say_their_command(path):
    config = load_config_file(TrainingConfig, str(path), [])
    assert f"python train.py --config configs/{path.name} " in path.read_text()
    assert parse_config(TrainingConfig, schema.to_dict(config)) == config
    offline = path.stem in ("tiny", "debug") or path.stem.startswith("rooms")
    assert (config.lpips_weight == 0) == offline


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.batchsize=3", "batch_size"),
        ("--config.batch_size=three", "three"),
        ("--config.data.view=1", "views"),
        ("--config.batch_size=0", "config.batch_size: expected an integer >= 1, found 0"),
        ("--config.accumulation_steps=3", "divisor of batch_size 2"),
        ("--config.data.resolution=100", "multiple of 8, found 100"),
        ("--config.precision=fp64", "config.precision: expected one of"),
        ("--config.ema_decay=1.5", "config.ema_decay: expected a number in"),
        ("--config.model.num_heads=5", "does not split into 5 heads"),
        ("--config.model.use_ldr=True", "use_ldr"),
        ("--config.data.crop=256", "at most resolution"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(InputError, match=message):
        load_config_file(TrainingConfig, str(ROOT / "configs" / "debug.py"), [override])


def test_v2_is_not_trained():
    with pytest.raises(InputError, match="V2 is rendered here, but not trained"):
        TrainingConfig(model=VARIANTS["testing_v2"])


def test_overrides_reach_every_level():
    config = load_config_file(TrainingConfig,
        str(ROOT / "configs" / "debug.py"),
        ["--config.data.path=x", "--config.data.crop=64", "--config.lpips_weights=w",
         "--config.model.performer_features=8", "--config.model.dpt_out_channels=(1,2,3,4)"],
    )  # fmt: skip
    assert (config.data.path, config.data.crop, config.lpips_weights) == ("x", 64, "w")
    assert config.model.to_flat()["performer_features"] == 8
    assert config.model.dpt_out_channels == (1, 2, 3, 4)


def test_own_configs_with_unknown_keys_name_the_nearest():
    values = schema.to_dict(small_config("x"))
    with pytest.raises(InputError, match=r"config.learning_rates: unknown key.*'learning_rate'"):
        parse_config(TrainingConfig, values | {"learning_rates": 1.0})
    config = default_config(small_config("x").model)
    with pytest.raises(AttributeError, match="learning_rate"):
        config.learning_rates = 1.0


def test_a_workdir_of_another_config_is_refused(tmp_path):
    config = small_config("x")
    check_continues(config, tmp_path)
    save_config(config, tmp_path)
    check_continues(dataclasses.replace(config, total_steps=9, keep_last=1), tmp_path)
    with pytest.raises(InputError, match=r"seed was 0, is 1.*choose another"):
        check_continues(dataclasses.replace(config, seed=1), tmp_path)
