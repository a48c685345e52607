"""All keys of a training run with their defaults; rf_jax/training/config.py describes them."""

from ml_collections import ConfigDict

from rf_jax.models import VARIANTS
from rf_jax.training.config import default_config


def get_config(variant: str = "v1_base") -> ConfigDict:
    """The published recipe of V1-Base at 256x256, for a network of `rf_jax.models.VARIANTS`."""
    return default_config(VARIANTS[variant])
