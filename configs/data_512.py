"""Scenes of the published second stage: 512x512 pixels, at most 4,096 triangles.

python -m rf_jax.datagen --config configs/data_512.py --output_dir data/rooms_512

Time: docs/data.md has the number of images per minute and core.
Result: 10,000 files of up to 4 views, and index.jsonl. The published data have 2,000,000 scenes
(--config.num_scenes=2000000).
"""

from ml_collections import ConfigDict

MANY, ONE = 1188, 3968  # most faces of an object, in scenes of several objects and of one
KEYS = ("family", "weight", "num_objects", "sphere_scale", "max_faces")
LOW_FLOOR = {"floor_offset": (-0.05, 0.25)}


def get_config() -> ConfigDict:
    rows = [
        ("corner", 3, (1, 1), (1.6, 2.1), ONE),
        ("corner", 3, (2, 3), (1.0, 1.8), MANY),
        ("box", 3, (1, 1), (1.8, 2.0), ONE),
        ("box", 2, (1, 1), (1.8, 2.0), ONE, {"jitter": False}),
        ("box", 3, (2, 3), (1.0, 1.8), MANY),
        ("box", 2, (2, 3), (1.0, 1.8), MANY, {"jitter": False}),
        ("plane", 4, (1, 1), (1.8, 2.2), ONE, LOW_FLOOR),
        ("plane", 4, (2, 3), (1.0, 1.8), MANY, LOW_FLOOR),
        ("wall", 3, (1, 1), (1.8, 2.2), ONE, LOW_FLOOR),
        ("wall", 3, (2, 3), (1.0, 1.8), MANY, LOW_FLOOR),
        ("corner", 3, (0, 5), (1.4, 1.6), MANY),
        ("box", 3, (0, 5), (1.4, 1.6), MANY),
        ("plane", 3, (0, 6), (1.4, 1.6), MANY, LOW_FLOOR),
        ("wall", 3, (0, 6), (1.4, 1.6), MANY, LOW_FLOOR),
    ]
    config = ConfigDict()
    config.num_scenes = 10_000
    config.seed = 0
    config.val_fraction = 0.01
    config.test_fraction = 0.01
    config.sampler = ConfigDict()
    config.sampler.max_triangles = 4096
    config.sampler.templates = tuple(template(*row) for row in rows)
    config.sampler.avoid_collisions = False
    config.render = ConfigDict()
    config.render.renderer = "mitsuba"
    config.render.variant = "auto"
    config.render.resolution = 512
    config.render.spp = 512
    config.render.max_depth = 8
    config.render.denoise = True
    return config.lock()


def template(*row) -> dict:
    """The fields of a template from a row of the table, whose last item may hold other fields."""
    values, rest = row[: len(KEYS)], row[len(KEYS) :]
    return dict(zip(KEYS, values, strict=True)) | (rest[0] if rest else {})
