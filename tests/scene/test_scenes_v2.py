"""Scenes of RenderFormer V2: materials, environments, the Studio's files, V1's files."""

import json

import jax
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.images.files import save_exr
from rf_jax.models.vae_encoder import VaeEncoderConfig
from rf_jax.scene import load_scene
from rf_jax.scene.description_v2 import SurfaceMaterial
from rf_jax.scene.latents import LatentEncoders
from rf_jax.scene.load_v2 import load_scene_v2, scene_to_v2
from rf_jax.structs import EMISSION
from rf_jax.weights.latent_encoders import VAE, random_networks

GREY = SurfaceMaterial("diffspec_mapper", (0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.3))
METAL = SurfaceMaterial("metallic_mapper", (0.5, 0.5, 0.5, 0.9, 0.3))
GLASS = SurfaceMaterial("metallic_transmission_mapper", (1, 1, 1, 0, 0.1, 1.5, 0.9))


@pytest.fixture(scope="module")
def networks():
    return random_networks(VaeEncoderConfig(base_dim=4), seed=0)


@pytest.fixture(scope="module")
def encoders(networks):
    return LatentEncoders(networks)


class Black:
    """Environments cost the most, and most tests need none."""

    def __init__(self, encoders):
        self.textures, self.maps = encoders.textures, []

    def environment(self, radiance):
        self.maps.append(radiance)


@pytest.fixture
def quick(encoders):
    return Black(encoders)


def test_textures_are_latents_of_constant_images(networks, encoders):
    textures = encoders.textures([GREY, METAL, GLASS])
    assert textures.shape == (3, 80, 4, 4) and textures.dtype == np.float16
    colors = []
    for material in (GREY, METAL, GLASS):
        mapper = networks[material.mapper]
        code = mapper.module.apply(mapper.variables, np.float32([material.parameters]))[0]
        colors += [code[0:3], code[3:6], code[6:9], (0, 0, 1), (0, 0, 0)]
    images = np.stack([np.broadcast_to(np.float32(color), (32, 32, 3)) for color in colors])
    vae = networks[VAE]
    latents = jax.jit(vae.module.apply)(vae.variables, images)  # (15, 4, 4, 16)
    expected = np.moveaxis(latents, -1, 1).reshape(3, 80, 4, 4)
    np.testing.assert_allclose(textures, expected, atol=2e-3)


def test_each_distinct_image_is_encoded_once(networks):
    encoders = LatentEncoders(networks)
    batches = []
    apply = encoders._apply[VAE]
    encoders._apply[VAE] = lambda images: batches.append(len(images)) or apply(images)
    first = encoders.textures([GREY, METAL])
    again = encoders.textures([METAL, GREY, GREY])
    assert len(batches) == 1
    np.testing.assert_array_equal(again, first[[1, 0, 0]])


def test_the_environment(networks, encoders):
    radiance = np.random.default_rng(0).uniform(0, 9, (256, 512, 3)).astype(np.float32)
    environment = encoders.environment(radiance)
    assert environment.latent_ldr.shape == environment.latent_hdr.shape == (16, 32, 64)
    assert environment.strength == np.log10(1 + radiance).max()
    hdr = np.log10(1 + radiance) / environment.strength * 2 - 1
    vae = networks[VAE]
    expected = np.moveaxis(jax.jit(vae.module.apply)(vae.variables, hdr[None])[0], -1, 0)
    np.testing.assert_allclose(environment.latent_hdr, expected, atol=1e-4)


def test_latents_of_environments_are_stored(networks, tmp_path):
    def encode():
        encoders = LatentEncoders(networks, tmp_path / "environments")
        batches = []
        apply = encoders._apply[VAE]
        encoders._apply[VAE] = lambda images: batches.append(1) or apply(images)
        return encoders.environment(None), len(batches)

    first, count = encode()
    assert count == 1  # both images of a black map are the same
    again, count = encode()
    assert count == 0
    np.testing.assert_array_equal(again.latent_hdr, first.latent_hdr)
    (path,) = (tmp_path / "environments").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again, count = encode()
    assert count == 1
    np.testing.assert_array_equal(again.latent_hdr, first.latent_hdr)


def test_no_environment_is_a_black_one(encoders):
    environment = encoders.environment(None)
    assert environment.strength == 0
    np.testing.assert_array_equal(environment.latent_ldr, environment.latent_hdr)


def test_a_v1_scene(scene, quick):
    found = scene_to_v2(scene.replace(texture=scene.texture[[0, 1, 1, 2, 0]]), quick)
    assert found.texture_index.tolist() == [0, 1, 1, 2, 0]
    assert len(found.textures) == 3
    np.testing.assert_array_equal(found.emission, scene.texture[[0, 1, 1, 2, 0], EMISSION])
    np.testing.assert_array_equal(found.triangles, scene.triangles)


def test_v1_json_keeps_all_digits_of_diffuse(folder, scene_dict, quick):
    scene_dict["objects"]["box"]["material"]["diffuse"] = [0.3333, 0.25, 0.75]
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    found = load_scene_v2(folder / "scene.json", quick)
    exact = SurfaceMaterial("diffspec_mapper", (0.3333, 0.25, 0.75, 0.1, 0.1, 0.1, 0.3))
    np.testing.assert_array_equal(found.textures, quick.textures([exact]))
    assert found.triangles.shape == (4, 3, 3) and quick.maps == [None]


def test_patches_of_v1_are_refused(scene, quick):
    patches = np.random.default_rng(0).uniform(size=(5, 13, 4, 4)).astype(np.float32)
    with pytest.raises(InputError, match="V2 expected one material a triangle"):
        scene_to_v2(scene.replace(texture=patches), quick)


def test_v1_json_with_an_environment_map(folder, scene_dict, quick):
    radiance = np.random.default_rng(0).uniform(size=(256, 512, 3)).astype(np.float32)
    save_exr(folder / "sky.exr", radiance)
    scene_dict["env_map"] = {"env_map_path": "sky.exr", "strength": 3}
    path = folder / "scene.json"
    path.write_text(json.dumps(scene_dict))
    load_scene_v2(path, quick)
    np.testing.assert_allclose(quick.maps[0], 3 * radiance, rtol=1e-6)
    with pytest.raises(InputError, match=r"an environment map.*only weights of RenderFormer V2"):
        load_scene(path)


def test_json_that_is_no_object_is_refused(folder, quick):
    (folder / "scene.json").write_text("[]")
    with pytest.raises(InputError, match=r"scene.json: .*expected a JSON object"):
        load_scene_v2(folder / "scene.json", quick)


def test_json_needs_the_encoders(folder, scene_dict):
    (folder / "scene.json").write_text(json.dumps(scene_dict))
    with pytest.raises(InputError, match=r"materials: for RenderFormer V2.*--latent_encoders"):
        load_scene_v2(folder / "scene.json", None)


@pytest.fixture
def frame(scene_dict):
    """The same scene as a prepared frame of the Studio."""
    transform = {f"{kind}_{axis}": 0.0 for kind in ("translation", "rotation") for axis in "xyz"}
    transform |= {f"scale_{axis}": 1.0 for axis in "xyz"} | {"normalize": False}
    material = {
        "material_type": "homo_metallic_roughness",
        "texture_map_path": None,
        "texture_map_aug_random_seed": None,
        "use_heightmap": False,
        "diffuse_specular_params": None,
        "metallic_roughness_params": {
            "base_color": [0.5, 0.5, 0.5],
            "metallic": 0.9,
            "roughness": 0.3,
        },
        "metallic_roughness_transmission_params": None,
        "emissive": [1.0, 2.0, 3.0],
        "smooth_shading": True,
        "rand_tri_diffuse_seed": None,
    }
    box = {
        "mesh_path": "a.obj",
        "transform": transform,
        "is_background": True,
        "is_lighting": False,
        "material": material,
    }
    return {
        **scene_dict,
        "objects": {"box": box},
        "lighting": [],
        "env_map": None,
        "volumes": None,
        "wall_holes": None,
    }


def test_a_frame_of_the_studio(folder, frame, quick):
    (folder / "scene_config.json").write_text(json.dumps(frame))
    found = load_scene_v2(folder / "scene_config.json", quick)
    np.testing.assert_array_equal(found.textures, quick.textures([METAL]))
    np.testing.assert_array_equal(found.emission, np.tile([1, 2, 3], (4, 1)))
    assert found.triangles.shape == (4, 3, 3) and quick.maps == [None]
    with pytest.raises(InputError, match=r"materials of RenderFormer Studio.*only weights of"):
        load_scene(folder / "scene_config.json")


def test_equal_vertices_of_a_frame_are_merged(folder, frame, quick):
    """Two faces in one plane, almost, that share an edge but no vertices."""
    (folder / "a.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 0 0\nv 1 1 0.2\nv 0 1 0\nf 1 2 3\nf 4 5 6\n"
    )
    (folder / "scene_config.json").write_text(json.dumps(frame))
    found = load_scene_v2(folder / "scene_config.json", quick)
    np.testing.assert_allclose(found.vertex_normals[0, 1], found.vertex_normals[1, 0])
    assert abs(found.vertex_normals[0, 0] - found.vertex_normals[0, 1]).max() > 0.01


def _material(**changes):
    return lambda frame: frame["objects"]["box"]["material"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_material(material_type="svbrdf_metallic_roughness"), "UV texture.*processed H5"),
        (_material(material_type="homo_measured_brdf"), "measured data.*processed H5"),
        (_material(material_type="plastic"), 'found "plastic"'),
        (_material(metallic_roughness_params=None), "metallic_roughness_params: missing"),
        (_material(rand_tri_diffuse_seed=3), "rand_tri_diffuse_seed"),
        (lambda frame: frame.update(volumes=[{}]), "volumes: .*processed H5 files only"),
        (lambda frame: frame.update(lighting=[{}]), "lights are objects that emit"),
        (
            lambda frame: frame["objects"]["box"]["transform"].update(scale_x=2.0),
            "transform: expected a prepared frame",
        ),
        (lambda frame: frame.update(env_map={"env_map_path": "no.exr"}), "no such file"),
    ],
)
def test_what_frames_cannot_have(folder, frame, quick, change, message):
    change(frame)
    path = folder / "scene_config.json"
    path.write_text(json.dumps(frame))
    with pytest.raises(InputError, match=message) as error:
        load_scene_v2(path, quick)
    assert "scene_config.json: " in str(error.value)


def test_gltf_files(tmp_path, quick):
    """Their scenes for V1, with encoded materials."""
    import trimesh

    path = tmp_path / "a.glb"
    trimesh.creation.box().export(path)
    found, expected = load_scene_v2(path, quick), load_scene(path)
    np.testing.assert_array_equal(found.triangles, expected.triangles)
    np.testing.assert_array_equal(found.emission, expected.texture[:, EMISSION])
    assert len(found.textures) == 2  # the box and the light
    with pytest.raises(InputError, match=r"a\.glb: .*latent_encoders"):
        load_scene_v2(path, None)
