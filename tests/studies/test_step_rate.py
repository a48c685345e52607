"""The measured parts of a training step compute what training computes."""

import jax
import numpy as np

from rf_jax.config_files import load_config_file
from rf_jax.studies.step_rate import compile_parts
from rf_jax.training.config import TrainingConfig
from rf_jax.training.sharding import make_mesh


def test_parts_are_those_of_a_training_step():
    sizes = [f"--config.data.{key}" for key in ("resolution=64", "max_triangles=16", "views=1")]
    config = load_config_file(TrainingConfig, "debug", sizes)
    mesh = make_mesh(1, config.batch_size, jax.devices()[: config.batch_size])
    parts = {name: program() for name, program in compile_parts(config, mesh).items()}
    state, metrics = parts["step"]
    np.testing.assert_allclose(metrics["loss"], parts["forward"], rtol=1e-5)
    squares = jax.tree.map(lambda x: (x.astype(np.float32) ** 2).sum(), parts["gradient"])
    norm = np.sqrt(sum(jax.tree.leaves(squares)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    assert norm > 0 and state.step == 1
