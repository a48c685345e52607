"""Random networks: what smoke pictures, timings and tests rely on."""

import filecmp
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from rf_jax.models import RenderFormer
from rf_jax.rendering.preprocess import batched, prepare_scene
from rf_jax.scene.random_scene import random_scene
from rf_jax.structs import expand_texture
from rf_jax.weights import random_weights


def write(monkeypatch, folder, seed):
    monkeypatch.setattr(sys, "argv", ["random_weights", str(folder), "--seed", str(seed)])
    random_weights.main()
    return folder / "model.safetensors"


def test_the_seed_decides_the_file(monkeypatch, tmp_path):
    first = write(monkeypatch, tmp_path / "a", 3)
    assert filecmp.cmp(first, write(monkeypatch, tmp_path / "b", 3), shallow=False)
    assert not filecmp.cmp(first, write(monkeypatch, tmp_path / "c", 4), shallow=False)


def test_kernels_keep_the_scale_of_what_they_multiply(variables):
    kernels = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(variables, sep="/").items()
        if path.endswith("kernel") and leaf.size > 1000
    }
    assert len(kernels) >= 10
    for path, kernel in kernels.items():
        stacked = "/layers/" in path or "/context/" in path
        fan_in = np.prod(kernel.shape[stacked:-1])
        assert kernel.std() * np.sqrt(fan_in) == pytest.approx(1, rel=0.2), path


def test_every_leaf_moves_the_image(config, variables):
    scene = random_scene(6)
    texture = expand_texture(scene.texture, config.texture_encode_patch_size)
    texture[:, :, 1, 0] *= 0.5  # so that patches stay patches
    scene = scene.replace(texture=texture)
    tokens, cameras = prepare_scene(scene, config), batched(scene)
    render = jax.jit(
        lambda variables: RenderFormer(config).apply(
            variables, tokens, cameras.camera_to_world, cameras.fov_degrees, 16
        )
    )
    image = np.asarray(render(variables))
    rng = np.random.default_rng(0)
    leaves = traverse_util.flatten_dict(variables, sep="/")
    for path, leaf in leaves.items():
        changed = leaves | {path: leaf + rng.standard_normal(leaf.shape, np.float32)}
        other = np.asarray(render(traverse_util.unflatten_dict(changed, sep="/")))
        assert np.isfinite(other).all() and not np.array_equal(other, image), path
