"""V1-Base, second training stage: up to 4,096 triangles, 512x512, from the first stage's weights.

python train.py --config configs/base_512.py --workdir workdirs/base_512

The data are made with configs/data_512.py; workdirs/base_256 is the run of base_256.py.
On paper (rf-jax-plan --config base_512 --devices 8, compiled for H100s and not run) a step needs 50
GiB on each of eight GPUs, 120 TFLOP, and 0.23 seconds or more. With --config.remat=True it needs 24
GiB, 148 TFLOP, and about 0.3 seconds.
Time as published: about 3 days on 8 A100. The published figures are in base_256.py.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("v1_base")
    config.init_from = "workdirs/base_256"
    config.total_steps = 100_000
    config.batch_size = 64
    config.learning_rate = 5e-5
    config.warmup_steps = 8000
    config.cosine_steps = 92_000
    config.data.path = "data/rooms_512"
    config.data.resolution = 512
    config.data.max_triangles = 4096
    return config
