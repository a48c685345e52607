"""Starting a training run from trained weights."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import traverse_util

from rf_jax.errors import InputError
from rf_jax.models import RenderFormerConfig
from rf_jax.weights import convert
from rf_jax.weights.pretrained import load_pretrained, with_attention


def warm_start(source: str, config: RenderFormerConfig) -> dict[str, Any]:
    """Reads the variables at `source` for a network that is to be trained.

    The network may use other attention functions than the weights were trained with. Variables of
    an attention function that are missing are drawn afresh.

    Args:
      source: weights of any kind that `load_pretrained` reads, except a `.pt` file.
      config: the network.

    Returns:
      all variables of the network, in float32.

    Raises:
      InputError: the variables do not fit the network; the message names every leaf that does not.
    """
    leaves = _leaves(source, config)
    try:
        convert.check_leaves(leaves, config)
    except InputError as error:
        raise InputError(f"{source}: {error}; config.init_lenient=True takes what fits") from error
    return traverse_util.unflatten_dict(leaves, sep="/")


def warm_start_leniently(
    source: str, config: RenderFormerConfig, init: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Reads the variables at `source` that fit a network, and takes fresh ones for the rest.

    Logs which variables were left out and which are fresh.

    Args:
      source, config: the arguments of `warm_start`.
      init: makes fresh variables of the network.

    Raises:
      InputError: no variable fits.
    """
    leaves = _leaves(source, config)
    fresh = traverse_util.flatten_dict(init(), sep="/")
    taken = {p: x for p, x in leaves.items() if p in fresh and fresh[p].shape == x.shape}
    if not taken:
        raise InputError(f"{source}: nothing fits the network")
    left, new = sorted(leaves.keys() - taken.keys()), sorted(fresh.keys() - taken.keys())
    logging.warning("init_from: left out %s; fresh %s", left or "nothing", new or "nothing")
    return traverse_util.unflatten_dict(fresh | taken, sep="/")


def _leaves(source, config):
    """The leaves at `source` (path -> float32 array), with the attention functions of `config`."""
    pretrained = load_pretrained(source)
    names = config.view_independent_attention, config.view_dependent_attention
    found = dataclasses.replace(pretrained.config, attention_options=config.attention_options)
    variables, _ = with_attention(pretrained.variables, found, ",".join(names))
    leaves = traverse_util.flatten_dict(variables, sep="/")
    return {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}
