"""A network of 2 million parameters on the rooms of configs/data_rooms.py.

python -m rf_jax.datagen --config configs/data_rooms.py --output_dir data/rooms
python train.py --config configs/rooms.py --workdir workdirs/rooms

Time: 22 minutes on two CPU cores, 9 of them for data. Result: validation PSNR 25.0 dB.

configs/rooms_fine.py goes on from here with smaller patches. Rays see where triangles lie on the
image (`view_positions`), and values carry positions too (`rotate_values`): together they are worth
half of the steps. Images are proportional to emission by construction (`reference_emission`). The
decoder is linear: with it, colours are learned within 1,000 steps, by which a small DPT decoder has
learned only brightness. Its outputs start at an even grey and fall to the median radiance. The long
warm-up keeps them from falling below zero, where the last activation has almost no slope. LPIPS is
off, so this runs offline.
"""

from ml_collections import ConfigDict

from rf_jax.configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.total_steps = 9000
    config.batch_size = 2
    config.precision = "fp32"
    config.optimizer = "muon"
    config.learning_rate = 1e-3
    config.warmup_steps = 800
    config.cosine_steps = 8200
    config.lpips_weight = 0.0
    config.image_every_steps = 1000
    config.validate_every_steps = 500
    config.checkpoint_every_steps = 500
    config.data.path = "data/rooms"
    config.data.resolution = 64
    config.data.max_triangles = 104
    config.data.views = 4
    config.data.augment = False
    config.data.workers = 0
    model = config.model
    model.latent_dim = model.view_transformer_latent_dim = 128
    model.num_layers = model.view_transformer_n_layers = 4
    model.num_heads = model.view_transformer_n_heads = 2
    model.dim_feedforward = model.view_transformer_ffn_hidden_dim = 384
    model.num_register_tokens = 4
    model.vertex_pe_num_freqs = 6
    model.vdir_num_freqs = 0
    model.reference_emission = 4250.0
    model.rotate_values = True
    model.view_positions = "projected"
    model.view_frequencies = (2.0, 6.0, 24.0)
    model.rope_double_max_freq = True
    model.texture_encode_patch_size = 1
    model.use_dpt_decoder = False
    return config
