"""V1.1-Large, second training stage: up to 4,096 triangles, 512x512, from the first's weights.

python train.py --config configs/large_512.py --workdir workdirs/large_512

The data are made with configs/data_512.py; workdirs/large_256 is the run of large_256.py.
Batch size and schedule are those of the published recipe for 8 GPUs; its time and figures are not
published. On paper (rf-jax-plan --config large_512 --devices 8, compiled for H100s and not run) a
step needs 41 GiB on each GPU, 231 TFLOP, and 0.48 seconds or more.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("v1.1_large_swin")
    config.init_from = "workdirs/large_256"
    config.total_steps = 50_000
    config.batch_size = 48
    config.remat = True
    config.learning_rate = 5e-5
    config.warmup_steps = 4000
    config.cosine_steps = 46_000
    config.data.path = "data/rooms_512"
    config.data.resolution = 512
    config.data.max_triangles = 4096
    return config
