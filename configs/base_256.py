"""V1-Base (205M parameters), first training stage: up to 1,536 triangles, 256x256, as published.

python train.py --config configs/base_256.py --workdir workdirs/base_256

The data are made with configs/data_256.py. On paper (rf-jax-plan --config base_256 --devices 8,
compiled for H100s and not run) a step needs 31 GiB on each of eight GPUs, of which 26 are
activations, 51 TFLOP, and 0.11 seconds or more. On smaller or fewer GPUs, rf-jax-plan tries
--config.accumulation_steps and --config.remat=True.
Time as published: about 5 days on 8 A100. Published figures after both training stages: PSNR 29.77
dB, SSIM 0.9526, LPIPS 0.055, HDR-FLIP 0.175 at 256x256 (RenderFormer, table 1).
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("v1_base")
    config.total_steps = 500_000
    config.batch_size = 128
    config.learning_rate = 1e-4
    config.warmup_steps = 8000
    config.cosine_steps = 492_000
    config.data.path = "data/rooms_256"
    config.data.resolution = 256
    config.data.max_triangles = 1536
    return config
