"""V1.1-Large (483M parameters, shifted windows), first training stage: 1,536 triangles, 256x256.

python train.py --config configs/large_256.py --workdir workdirs/large_256

The data are made with configs/data_256.py.
On paper (rf-jax-plan --config large_256 --devices 8, compiled for H100s and not run) a step needs
19 GiB on each of eight GPUs, 30 TFLOP, and 0.08 seconds or more.
Batch size and schedule are those of the published recipe for 8 GPUs; its time and figures are not
published.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("v1.1_large_swin")
    config.total_steps = 600_000
    config.batch_size = 32
    config.learning_rate = 1e-4
    config.warmup_steps = 8000
    config.cosine_steps = 592_000
    config.data.path = "data/rooms_256"
    config.data.resolution = 256
    config.data.max_triangles = 1536
    return config
