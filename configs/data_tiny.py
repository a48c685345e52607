"""Small scenes for laptops: 128x128 pixels, at most 512 triangles.

python -m rf_jax.datagen --config configs/data_tiny.py --output_dir data/tiny

Time: about 3 minutes for 50 scenes on two CPU cores.
Result: 50 files of up to 4 views (at most 200 images), and index.jsonl.
"""

from ml_collections import ConfigDict

KEYS = ("family", "weight", "num_objects", "sphere_scale")


def get_config() -> ConfigDict:
    rows = [
        ("corner", 4, (1, 1), (1.6, 2.1)),
        ("corner", 3, (2, 3), (0.8, 1.8)),
        ("corner", 1, (0, 0), (1.0, 1.0)),
        ("corner", 2, (2, 3), (0.8, 1.8), {"shapes": "special_multi", "smooth_ratio": 0.25}),
        ("box", 3, (1, 1), (1.8, 2.0)),
        ("box", 3, (1, 2), (0.8, 1.8)),
        ("box", 1, (1, 2), (0.8, 1.8), {"jitter": False}),
        ("plane", 3, (1, 1), (1.2, 2.2)),
        ("plane", 3, (2, 3), (0.8, 1.8)),
        ("plane", 2, (1, 1), (1.4, 1.6), {"shapes": "thin"}),
        ("wall", 3, (1, 1), (1.2, 2.2)),
        ("wall", 3, (2, 3), (0.8, 1.8)),
        ("wall", 1, (4, 6), (1.0, 1.2)),
    ]
    config = ConfigDict()
    config.num_scenes = 50
    config.seed = 0
    config.val_fraction = 0.05
    config.test_fraction = 0.05
    config.sampler = ConfigDict()
    config.sampler.max_triangles = 512
    config.sampler.background_cells = (4, 4)
    config.sampler.templates = tuple(template(*row) for row in rows)
    config.sampler.avoid_collisions = False
    config.render = ConfigDict()
    config.render.renderer = "mitsuba"
    config.render.variant = "auto"
    config.render.resolution = 128
    config.render.spp = 64
    config.render.max_depth = 6
    config.render.denoise = True
    return config.lock()


def template(*row) -> dict:
    """The fields of a template from a row of the table, whose last item may hold other fields."""
    values, rest = row[: len(KEYS)], row[len(KEYS) :]
    return dict(zip(KEYS, values, strict=True)) | (rest[0] if rest else {})
