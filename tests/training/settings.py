"""A training run of seconds: its configuration, and how the tests start and read it.

`train.py --config tests/training/settings.py --config.data.path=DATA` trains it, too.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rf_jax.config_files import config_names, to_config_dict
from rf_jax.models import VARIANTS
from rf_jax.training.config import DataConfig, TrainingConfig
from rf_jax.training.loop import train_and_evaluate
from rf_jax.training.steps import TrainState

ROOT = Path(__file__).parents[2]

CONFIGS = [
    ROOT / "configs" / f"{name}.py"
    for name in config_names()
    if name != "common" and not name.startswith("data_")
]
"""The published configurations."""

MODEL = dataclasses.replace(
    VARIANTS["testing"],
    num_layers=1,
    texture_encode_patch_size=1,
    view_transformer_n_layers=2,
    use_dpt_decoder=False,
)
"""The smallest network; it compiles in a few seconds."""


def small_config(data: str | Path, **changes: Any) -> TrainingConfig:
    """A run on files of `scenes.write_scenes`; `data_KEY` changes a key of its data."""
    data_changes = {k[5:]: changes.pop(k) for k in list(changes) if k.startswith("data_")}
    values = dict(
        path=str(data), resolution=16, max_triangles=8, views=1, workers=0, max_skipped_fraction=0.5
    )
    base = dict(
        total_steps=6,
        batch_size=2,
        precision="fp32",
        learning_rate=1e-3,
        warmup_steps=2,
        cosine_steps=20,
        lpips_weight=0.0,
        log_every_steps=1,
        image_every_steps=1000,
        validate_every_steps=1000,
        checkpoint_every_steps=2,
        model=MODEL,
    )
    return TrainingConfig(**(base | {"data": DataConfig(**(values | data_changes))} | changes))


def get_config() -> ConfigDict:
    """The same run for `train.py`."""
    return to_config_dict(small_config("data"))


def train(config: TrainingConfig, workdir: Path) -> TrainState:
    """A whole run on one device."""
    return train_and_evaluate(config, workdir, jax.devices()[:1])


def cast(tree: Any, dtype: Any) -> Any:
    """Arrays of a tree whose floating-point leaves have that type."""

    def convert(x):
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(convert, tree)
