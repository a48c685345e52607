"""A small world to learn on a laptop: 64x64 images of a diffuse room with boxes and one light.

python -m rf_jax.datagen --config configs/data_rooms.py --output_dir data/rooms

The room has the shape of the bundled Cornell box. Its walls and its one or two boxes have any
colour, and the camera is in front of the open side. The images are denoised, which needs
pip install -e '.[datagen]'. The L1 loss would learn the median of the noise, and that is darker
than its mean.

Held-out scenes have another seed and less noise:

python -m rf_jax.datagen --config configs/data_rooms.py --output_dir data/rooms_test \
    --config.seed=1 --config.num_scenes=100 --config.val_fraction=0 --config.test_fraction=1 \
    --config.render.spp=256

Time: about 12 minutes on two CPU cores with LLVM 19.
Result: 3,200 files of 4 views (12,800 images), and index.jsonl.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.num_scenes = 3200
    config.seed = 0
    config.val_fraction = 0.02
    config.test_fraction = 0.0
    config.min_views = 4
    config.sampler = ConfigDict()
    config.sampler.max_triangles = 104
    config.sampler.background_cells = (2, 2)
    config.sampler.num_lights = (1, 1)
    config.sampler.light_radiance = (3500.0, 5000.0)
    config.sampler.light_facing = 0.8
    config.sampler.camera_distance = (1.8, 2.1)
    config.sampler.target_jitter = 0.1
    config.sampler.up_jitter = 0.0
    config.sampler.fov = (35.0, 42.0)
    config.sampler.specular_ratio = (0.0, 0.0)
    config.sampler.templates = (
        {
            "family": "box",
            "weight": 1,
            "num_objects": (1, 2),
            "sphere_scale": (0.9, 1.5),
            "max_faces": 48,
            "shapes": "boxes",
            "smooth_ratio": 0.0,
            "jitter": False,
            "standing": True,
        },
    )
    config.render = ConfigDict()
    config.render.renderer = "mitsuba"
    config.render.variant = "auto"
    config.render.resolution = 64
    config.render.spp = 32
    config.render.max_depth = 6
    config.render.denoise = True
    return config.lock()
