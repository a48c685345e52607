r"""The network of configs/rooms.py, trained further with patches of 4x4 pixels instead of 8x8.

python -m rf_jax.datagen --config configs/data_rooms.py --output_dir data/rooms_5k \
    --config.num_scenes=5200
python train.py --config configs/rooms_fine.py --workdir workdirs/rooms_fine

Time: about 70 minutes on two CPU cores that also did other work, and 12 for data.
Result: validation PSNR 29.6 dB, SSIM 0.949. This is the bundled network.

Where an edge runs inside a patch is what a network of large patches learns last. Only the encoder
of rays and the decoder depend on the patch size, so all other weights are taken over. An image
costs three times as much, and a step takes half as many.
"""

from ml_collections import ConfigDict

from rf_jax.configs import rooms


def get_config() -> ConfigDict:
    config = rooms.get_config()
    config.init_from = "workdirs/rooms"
    config.init_lenient = True
    config.total_steps = 26000
    config.learning_rate = 7e-4
    config.warmup_steps = 500
    config.cosine_steps = 25500
    config.validate_every_steps = 1000
    config.data.path = "data/rooms_5k"
    config.data.views = 2
    config.model.patch_size = 4
    return config
