"""The network of configs/rooms.py on the rooms of 100 to 2,000 triangles of data_rooms_mixed.py.

python -m rf_jax.datagen --config configs/data_rooms_mixed.py --output_dir data/rooms_mixed
python train.py --config configs/rooms_mixed.py --workdir workdirs/mixed_exact

Time: 2,000 steps of 0.21 s on two CPU cores, and compiling five lengths. Result: validation PSNR
19.8 dB.

docs/attention.md compares attention functions on these rooms: add
--config.model.view_independent_attention=sliding_sink (or another name) to train one of them.
Batches hold scenes of about the same length, so that 23% of their triangles are padding instead of
69%.
"""

from ml_collections import ConfigDict

from rf_jax.configs import rooms


def get_config() -> ConfigDict:
    config = rooms.get_config()
    config.total_steps = 2000
    config.warmup_steps = 400
    config.cosine_steps = 1600
    config.data.path = "data/rooms_mixed"
    config.data.max_triangles = 2044
    config.data.shorter_lengths = (252, 508, 764, 1276)
    return config
