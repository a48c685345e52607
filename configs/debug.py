"""A run of seconds that shows that all parts work: the tests' network on any small scenes.

python train.py --config configs/debug.py --workdir workdirs/debug

Time: under a minute on two CPU cores, most of which is compilation.
Result: 20 steps, a checkpoint and image grids; the images stay dark. LPIPS is off, so this runs
offline.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("testing")
    config.total_steps = 20
    config.batch_size = 2
    config.precision = "fp32"
    config.learning_rate = 1e-3
    config.warmup_steps = 5
    config.cosine_steps = 15
    config.lpips_weight = 0.0
    config.log_every_steps = 5
    config.image_every_steps = 10
    config.validate_every_steps = 20
    config.validation_scenes = 4
    config.checkpoint_every_steps = 10
    config.data.resolution = 128
    config.data.max_triangles = 512
    config.data.workers = 0
    return config
