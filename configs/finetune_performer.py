"""Fine-tunes the published V1-Base with the Performer as its view-independent attention.

python convert_weights.py microsoft/renderformer-v1-base checkpoints/v1_base
python train.py --config configs/finetune_performer.py --workdir workdirs/performer

The view-dependent stage keeps exact attention. On paper (rf-jax-plan --config finetune_performer
--devices 8, compiled for H100s and not run) a step needs 10 GiB on each GPU, 12 TFLOP, and 0.06
seconds or more. Time and figures are not measured yet: this needs a GPU and the published weights.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config("v1_base")
    config.init_from = "checkpoints/v1_base"
    config.model.view_independent_attention = "performer"
    config.performer_redraw_every_steps = 1000
    config.total_steps = 50_000
    config.batch_size = 32
    config.learning_rate = 5e-5
    config.warmup_steps = 1000
    config.cosine_steps = 49_000
    config.data.path = "data/rooms_256"
    config.data.resolution = 256
    config.data.max_triangles = 1536
    return config
