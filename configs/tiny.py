"""A network of 1.8 million parameters on the small scenes of configs/data_tiny.py.

python train.py --config configs/tiny.py --workdir workdirs/tiny

Time: 26 minutes on one CPU core, about 15 on two.
Result, with the 45 training scenes that configs/data_tiny.py makes: the training PSNR rises from 13
to 18 dB, and images show brightness and silhouettes. So few scenes are memorised, not understood
(validation PSNR 12.3 dB); configs/rooms.py learns more in the same time.
LPIPS is off, so this runs offline; validation reports LPIPS as unavailable.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.total_steps = 1000
    config.batch_size = 4
    config.precision = "fp32"
    config.learning_rate = 3e-4
    config.warmup_steps = 100
    config.cosine_steps = 900
    config.lpips_weight = 0.0
    config.image_every_steps = 250
    config.validate_every_steps = 250
    config.checkpoint_every_steps = 250
    config.data.resolution = 128
    config.data.max_triangles = 512
    config.data.workers = 1
    model = config.model
    model.latent_dim = model.view_transformer_latent_dim = 108
    model.num_layers = model.view_transformer_n_layers = 4
    model.num_heads = model.view_transformer_n_heads = 2
    model.dim_feedforward = model.view_transformer_ffn_hidden_dim = 432
    model.num_register_tokens = 4
    model.vertex_pe_num_freqs = 6
    model.texture_encode_patch_size = 1
    model.dpt_features = 16
    model.dpt_out_channels = (16, 24, 32, 48)
    return config
