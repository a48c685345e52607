"""Held-out scenes of configs/data_rooms.py, cut into about 4 times (or 16 times) as many triangles.

python -m rf_jax.datagen --config configs/data_rooms_fine.py --output_dir data/rooms_4x
python -m rf_jax.datagen --config configs/data_rooms_fine.py --output_dir data/rooms_16x \
    --config.sampler.background_cells="(8,8)" --config.sampler.max_triangles=1664

`python -m rf_jax.evaluate` shows on these how well a network does that was trained on fewer
triangles.

Time: about a minute each on two CPU cores with LLVM 19.
Result: 25 files of 4 views (100 images), and index.jsonl.
"""

from ml_collections import ConfigDict

from rf_jax.configs import data_rooms


def get_config() -> ConfigDict:
    config = data_rooms.get_config().unlock()
    config.num_scenes = 25
    config.seed = 1
    config.val_fraction = 0.0
    config.test_fraction = 1.0
    config.sampler.background_cells = (4, 4)
    config.sampler.max_triangles = 416
    (template,) = config.sampler.templates
    config.sampler.templates = ({**template, "max_faces": 768},)
    config.render.spp = 256
    return config.lock()
