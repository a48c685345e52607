"""Rooms as in configs/data_rooms.py, but of 100 to 2,000 triangles: a world where cost matters.

python -m rf_jax.datagen --config configs/data_rooms_mixed.py --output_dir data/rooms_mixed

The walls of a room have 2x2 to 12x12 cells, and its one or two objects are boxes or spheres of 32
to 448 triangles. So the same light falls on few and on many triangles, and a network that trains on
these must read both. docs/attention.md compares attention functions on them.

Held-out scenes have another seed and less noise:

python -m rf_jax.datagen --config configs/data_rooms_mixed.py --output_dir data/rooms_mixed_test \
    --config.seed=1 --config.num_scenes=100 --config.val_fraction=0 --config.test_fraction=1 \
    --config.render.spp=256

Time: about 12 minutes on two CPU cores with LLVM 19.
Result: 2,400 files of 4 views (9,600 images), and index.jsonl.
"""

from ml_collections import ConfigDict

from rf_jax.configs import data_rooms


def get_config() -> ConfigDict:
    config = data_rooms.get_config().unlock()
    config.num_scenes = 2400
    config.sampler.max_triangles = 2048
    config.sampler.background_cells = (2, 12)
    (template,) = config.sampler.templates
    template = {**template, "shapes": "boxes_and_spheres"}
    faces = (48, 160, 448)
    config.sampler.templates = tuple({**template, "max_faces": most} for most in faces)
    return config.lock()
