r"""V1-Base for scenes of up to 65,520 triangles, 512x512, from the weights of base_512.

python -m rf_jax.datagen --config configs/data_512.py --output_dir data/rooms_64k \
    --config.num_scenes=20000 --config.sampler.max_triangles=65520 \
    --config.sampler.background_cells="(2, 64)"
python train.py --config configs/base_64k.py --workdir workdirs/base_64k

Triangles read each other by `sliding_sink`, whose cost is nearly linear: a window, all lights, and
summaries of what is far. It adds no variables and is close to exact attention with the same
weights (docs/attention.md), so this short run starts from weights that were trained exactly.
On paper (rf-jax-plan --config base_64k --devices 8, compiled for H100s and not run) a step of the
longest scenes needs 15 GiB on each GPU, 145 TFLOP, and 0.77 seconds or more.
Time and figures are not measured yet: this needs GPUs.
"""

from ml_collections import ConfigDict

from rf_jax.configs import base_512


def get_config() -> ConfigDict:
    config = base_512.get_config()
    config.init_from = "workdirs/base_512"
    config.remat = True
    config.model.view_independent_attention = "sliding_sink"
    config.total_steps = 20_000
    config.batch_size = 8
    config.learning_rate = 2e-5
    config.warmup_steps = 1000
    config.cosine_steps = 19_000
    config.data.path = "data/rooms_64k"
    config.data.max_triangles = 65_520
    config.data.shorter_lengths = (4080, 8176, 16_368, 32_752)
    return config
