"""Denoising; skipped without pyoidn."""

import dataclasses

import numpy as np
import pytest

from rf_jax.datagen.path_tracer import make_path_tracer
from rf_jax.datagen.scenes import generate_scene
from rf_jax.structs import SPECULAR

pytest.importorskip("pyoidn")


def test_denoising_brings_images_nearer_to_the_truth(tiny_config):
    scene = generate_scene(tiny_config, 7, 0, ()).scene
    texture = scene.texture.copy()
    texture[:, SPECULAR] = 0  # without caustics, which would be noise in the truth as well
    cameras = {name: getattr(scene, name)[:1] for name in ("camera_to_world", "fov_degrees")}
    scene = scene.replace(texture=texture, **cameras)
    settings = dataclasses.replace(tiny_config.render, resolution=48, max_depth=4)
    images = {
        name: make_path_tracer(
            dataclasses.replace(settings, spp=spp, denoise=denoise), "scalar_rgb", None, 2
        ).render(scene, seed)
        for name, spp, denoise, seed in (
            ("noisy", 16, False, 1),
            ("clean", 16, True, 1),
            ("truth", 512, False, 2),
        )
    }
    log = {name: np.log10(1 + image[..., :3]) for name, image in images.items()}
    noisy, clean = (np.square(log[name] - log["truth"]).mean() for name in ("noisy", "clean"))
    assert clean < 0.6 * noisy
    np.testing.assert_array_equal(images["clean"][..., 3], images["noisy"][..., 3])
