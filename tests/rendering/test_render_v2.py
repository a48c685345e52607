"""render.py with networks of RenderFormer V2."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.images.metrics import psnr
from rf_jax.models import VARIANTS
from rf_jax.models.config_v2 import V2Config
from rf_jax.models.vae_encoder import VaeEncoderConfig
from rf_jax.rendering.preprocess import batched
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.check import scene_warnings
from rf_jax.scene.h5_v2 import save_h5_v2
from rf_jax.structs import SceneV2
from rf_jax.trained_on import PUBLISHED
from rf_jax.weights.latent_encoders import random_networks, save_latent_encoders
from rf_jax.weights.pretrained import save_hugging_face_folder
from rf_jax.weights.random_weights import random_variables

RENDER = "render.py"


@pytest.fixture(scope="module")
def config():
    """A small network that reads latents of the published sizes."""
    v2 = V2Config(intra_rope_pe_num_freqs=8)
    return dataclasses.replace(VARIANTS["testing_v2"], texture_encode_patch_size=4, v2=v2)


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    save_hugging_face_folder(folder, random_variables(config, seed=0), config.to_dict())
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    save_latent_encoders(folder, random_networks(VaeEncoderConfig(base_dim=4), seed=0))
    return folder


@pytest.fixture(scope="module")
def v1_checkpoint(tmp_path_factory):
    config = VARIANTS["testing"]
    folder = tmp_path_factory.mktemp("v1")
    save_hugging_face_folder(folder, random_variables(config, seed=0), config.to_dict())
    return folder


@pytest.fixture(scope="module")
def renderer(checkpoint, encoders):
    return Renderer.from_pretrained(checkpoint, latent_encoders=encoders)


@pytest.fixture(scope="module")
def scene(renderer):
    return renderer.load_scene("cornell_box")


@pytest.fixture
def scene_file(scene, tmp_path):
    save_h5_v2(scene, tmp_path / "v2.h5")
    return tmp_path / "v2.h5"


def small(checkpoint, *arguments):
    return (RENDER, *arguments, "--checkpoint", checkpoint, "--resolution", 64)


def test_a_v1_scene_and_its_h5_file(command, tmp_path, checkpoint, encoders):
    """The file holds latents: it gives the same picture without the encoders."""
    arguments = small(checkpoint, "cornell_box", "--latent_encoders", encoders, "--save_h5")
    status, out, err = command(*arguments, "--output_dir", "out")
    assert (status, err) == (0, "") and "97 triangles, 1 views" in out
    saved = tmp_path / "out" / "cornell_box.h5"
    assert "attended by sliding_sink" in out
    assert command(*small(checkpoint, saved), "--output_dir", "again")[0] == 0
    image = load_exr(tmp_path / "out" / "cornell_box_view_0.exr")
    assert image.std() > 0
    np.testing.assert_array_equal(image, load_exr(tmp_path / "again" / "cornell_box_view_0.exr"))


def test_scenes_of_v1_and_environments_from_python(renderer, scene):
    bright = scene.environment.replace(strength=np.float32(2))
    scenes = [scene, load_scene("cornell_box"), scene.replace(environment=bright)]
    image, nearly, other = renderer.render(scenes, 64)
    assert isinstance(scene, SceneV2) and image.shape == (1, 1, 64, 64, 3)
    # Scenes of V1 have diffuse reflectances of 8 bits.
    assert 0 < np.abs(image - nearly).mean() < 0.1 * image.std()
    assert np.abs(image - other).max() > 1e-3
    none = renderer.render(scene.replace(environment=None), 64)
    np.testing.assert_array_equal(none, image)  # a black one


def test_batches_are_refused(renderer):
    scene = batched(load_scene("cornell_box"))
    with pytest.raises(InputError, match="one by one, found a batch"):
        renderer.render(scene, 64)


def test_materials_need_the_encoders(refused, checkpoint):
    line = refused(*small(checkpoint, "cornell_box"))
    assert "materials: for RenderFormer V2" in line and "--latent_encoders" in line


def test_a_missing_environment_needs_the_encoders(refused, checkpoint, scene_file):
    with h5py.File(scene_file, "r+") as file:
        for name in ("env_latent_ldr", "env_latent_hdr", "env_lighting_strength"):
            del file[name]
    line = refused(*small(checkpoint, scene_file))
    assert "environment: for RenderFormer V2" in line and "--latent_encoders" in line


def test_latents_of_other_networks(refused, checkpoint, scene_file):
    with h5py.File(scene_file, "r+") as file:
        texture = file["texture"][:, :64]
        del file["texture"]
        file["texture"] = texture
    line = refused(*small(checkpoint, scene_file))
    assert "expected latents [K, 80, T, T]" in line and "V2 network" in line


def test_cells_of_another_size(refused, checkpoint, scene_file):
    cells = {"density": 27, "position": 3, "rotation": 3, "scale": 3}
    cells |= {"scattering_scale": 3, "absorption_scale": 3}
    with h5py.File(scene_file, "r+") as file:
        for name in [name for name in file if name.startswith("volume_")]:
            del file[name]
        for name, size in cells.items():
            file[f"volume_{name}"] = np.ones((2, size), np.float32)
    line = refused(*small(checkpoint, scene_file))
    assert "volumes.density: expected [M, 64] of RenderFormer V2, found [2, 27]" in line


def test_files_of_the_other_generation(refused, checkpoint, scene_file, v1_checkpoint):
    save_h5(load_scene("cornell_box"), "v1.h5")
    line = refused(*small(checkpoint, "v1.h5"))
    assert "weights of RenderFormer V2 read, found" in line
    line = refused(*small(v1_checkpoint, scene_file))
    assert "a processed scene of RenderFormer V2, which only weights of V2 read" in line


def test_v1_needs_no_encoders(refused, v1_checkpoint, encoders):
    line = refused(*small(v1_checkpoint, "cornell_box", "--latent_encoders", encoders))
    assert "these weights are of RenderFormer V1" in line


def test_a_v2_scene_for_a_v1_renderer(scene, v1_checkpoint):
    with pytest.raises(InputError, match="scene of RenderFormer V2, which these weights of V1"):
        Renderer.from_pretrained(v1_checkpoint).render(scene, 64)


def test_the_encoders_of_another_folder(refused, checkpoint, tmp_path):
    line = refused(*small(checkpoint, "cornell_box", "--latent_encoders", tmp_path))
    assert "expected a folder with latent_encoders.safetensors" in line


def test_a_scene_without_light_is_noticed(scene):
    dark = scene.replace(emission=np.zeros_like(scene.emission))
    assert scene_warnings(dark, PUBLISHED).keys() == {"lights"}
    assert not scene_warnings(scene, PUBLISHED)
    sky = scene.environment.replace(strength=np.float32(1))
    assert not scene_warnings(dark.replace(environment=sky), PUBLISHED)


def offline(*_):
    raise OSError("offline")


def test_evaluation(command, refused, checkpoint, encoders, renderer, scene, tmp_path, monkeypatch):
    """Of a file of V2 with ground truth; a scene of V1 is refused."""
    monkeypatch.setattr("rf_jax.images.lpips.hf_hub_download", offline)
    folder = tmp_path / "data"
    truth = np.random.default_rng(0).uniform(0, 2, (1, 64, 64, 4)).astype(np.float16)
    save_h5_v2(scene.replace(environment=None), folder / "room.h5")
    with h5py.File(folder / "room.h5", "a") as file:
        file["img"] = truth
    arguments = "rf_jax.evaluate", "--checkpoint", checkpoint, "--data", folder
    assert "--latent_encoders" in refused(*arguments)
    status, out, _ = command(*arguments, "--latent_encoders", encoders, "--output_dir", "out")
    assert status == 0 and "room" in out
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["scenes"][0]
    image = renderer.render(scene, 64)[0]
    expected = psnr(np.maximum(image, 0), np.float32(truth[..., :3])).mean()
    np.testing.assert_allclose(found["psnr"], expected, rtol=1e-5)
    save_h5(load_scene("cornell_box"), folder / "room.h5", images=truth)
    assert "room.h5: texture: expected latents" in refused(*arguments)


@pytest.mark.parametrize("study", ["attention_maps", "windows", "triangle_counts", "precision"])
def test_studies_of_v1(refused, checkpoint, tmp_path, study):
    (tmp_path / "scene.h5").touch()
    arguments = {
        "attention_maps": [checkpoint],
        "windows": ["--checkpoint", checkpoint, "--data", tmp_path],
        "triangle_counts": [checkpoint, "--data", tmp_path],
        "precision": ["--checkpoint", checkpoint],
    }
    error = refused(f"rf_jax.studies.{study}", *arguments[study])
    assert "expected weights of RenderFormer V1, whose scenes this reads, found V2" in error
