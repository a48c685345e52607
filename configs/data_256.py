"""Scenes of the published first stage: 256x256 pixels, at most 1,536 triangles.

python -m rf_jax.datagen --config configs/data_256.py --output_dir data/rooms_256

Time: docs/data.md has the number of images per minute and core.
Result: 10,000 files of up to 4 views, and index.jsonl. The published data have 2,000,000 scenes
(--config.num_scenes=2000000).
"""

from ml_collections import ConfigDict

MANY, ONE = 1188, 3968  # most faces of an object, in scenes of several objects and of one
KEYS = ("family", "weight", "num_objects", "sphere_scale", "max_faces")


def get_config() -> ConfigDict:
    rows = [
        ("corner", 3, (1, 1), (1.6, 2.1), ONE),
        ("corner", 1, (1, 1), (1.6, 2.1), ONE, {"jitter": False}),
        ("corner", 3, (2, 3), (0.8, 1.8), MANY),
        ("corner", 1, (2, 3), (0.8, 1.8), MANY, {"jitter": False}),
        ("corner", 1, (0, 0), (1.0, 1.0), MANY),
        ("corner", 2, (1, 1), (1.6, 2.1), ONE, {"shapes": "special", "smooth_ratio": 0.25}),
        ("corner", 2, (2, 3), (0.8, 1.8), MANY, {"shapes": "special_multi", "smooth_ratio": 0.25}),
        ("box", 3, (1, 1), (1.8, 2.0), ONE),
        ("box", 1, (1, 1), (1.8, 2.0), ONE, {"jitter": False}),
        ("box", 3, (1, 2), (0.8, 1.8), MANY),
        ("box", 1, (1, 2), (0.8, 1.8), MANY, {"jitter": False}),
        ("box", 1, (0, 0), (1.0, 1.0), MANY),
        ("plane", 3, (1, 1), (1.2, 2.2), ONE),
        ("plane", 3, (2, 3), (0.8, 1.8), MANY),
        ("plane", 1, (0, 0), (1.0, 1.0), MANY),
        ("wall", 3, (1, 1), (1.2, 2.2), ONE),
        ("wall", 1, (1, 1), (1.2, 2.2), ONE, {"jitter": False}),
        ("wall", 3, (2, 3), (0.8, 1.8), MANY),
        ("wall", 1, (2, 3), (0.8, 1.8), MANY, {"jitter": False}),
        ("wall", 1, (1, 1), (1.2, 2.2), ONE),
        ("plane", 8, (1, 1), (1.4, 1.6), MANY, {"shapes": "thin"}),
    ]
    config = ConfigDict()
    config.num_scenes = 10_000
    config.seed = 0
    config.val_fraction = 0.01
    config.test_fraction = 0.01
    config.sampler = ConfigDict()
    config.sampler.max_triangles = 1536
    config.sampler.templates = tuple(template(*row) for row in rows)
    config.sampler.avoid_collisions = False
    config.render = ConfigDict()
    config.render.renderer = "mitsuba"
    config.render.variant = "auto"
    config.render.resolution = 256
    config.render.spp = 512
    config.render.max_depth = 8
    config.render.denoise = True
    return config.lock()


def template(*row) -> dict:
    """The fields of a template from a row of the table, whose last item may hold other fields."""
    values, rest = row[: len(KEYS)], row[len(KEYS) :]
    return dict(zip(KEYS, values, strict=True)) | (rest[0] if rest else {})
