"""The precision of every matrix product of a run, read from its lowered programs."""

import collections
import re

import jax
import pytest
from settings import small_config

from rf_jax.images.lpips import Perceptual
from rf_jax.training.data import abstract_batch
from rf_jax.training.loop import compile_steps
from rf_jax.training.sharding import make_mesh
from rf_jax.training.steps import make_model

PRODUCT = re.compile(r"stablehlo\.(dot_general|convolution)\b.*")
PRECISIONS = re.compile(r"(?:precision = \[|#stablehlo<precision )(\w+)")


def products(lowered) -> collections.Counter:
    """How many products there are of each type of operands and precision."""
    found = collections.Counter()
    for match in PRODUCT.finditer(lowered.as_text()):
        operand = match[0].rsplit(": (tensor<", 1)[1].split(">")[0].split("x")[-1]
        stated = PRECISIONS.search(match[0])
        found[operand, stated[1] if stated else "DEFAULT"] += 1
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_of_float32_state_their_precision(precision, lpips_weights):
    """Network, LPIPS, SSIM and Muon; JAX's default is TF32 on NVIDIA GPUs."""
    config = small_config("", precision=precision, optimizer="muon", lpips_weight=0.05)
    mesh = make_mesh(1, config.batch_size, jax.devices()[:1])
    perceptual = Perceptual(str(lpips_weights), "float32" if precision == "fp32" else "bfloat16")
    steps = compile_steps(config, mesh, make_model(config, mesh), perceptual.distance)
    batch, state = abstract_batch(config), steps.abstract_state
    training = products(steps.train.lower(state, batch, perceptual.params))
    evaluating = products(steps.evaluate.lower(state.variables, batch, perceptual.params))
    allowed = {("f32", "HIGHEST")}
    if precision == "bf16":
        allowed |= {("bf16", "DEFAULT"), ("f32", "HIGH")}  # HIGH, which is TF32, for Muon
        assert training["bf16", "DEFAULT"] > 10
        assert ("f32", "HIGH") in training and ("f32", "HIGH") not in evaluating
    assert set(training) <= allowed and set(evaluating) <= allowed
    assert training["f32", "HIGHEST"] > 0
