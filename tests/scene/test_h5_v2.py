"""Processed files of RenderFormer V2."""

import h5py
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_h5, save_h5
from rf_jax.scene.h5_v2 import load_h5_v2, save_h5_v2
from rf_jax.structs import Environment, SceneV2, VolumeCells


class Encoders:
    """Instead of a network: the latents are the first pixels of the map."""

    def environment(self, radiance):
        if radiance is None:
            radiance = np.zeros((256, 512, 3), np.float32)
        latent = np.moveaxis(radiance[:4, :8], -1, 0)
        return Environment(latent, latent, np.float32(radiance.max()))


@pytest.fixture
def scene_v2(scene):
    rng = np.random.default_rng(0)

    def uniform(*shape):
        return rng.uniform(size=shape).astype(np.float16).astype(np.float32)

    return SceneV2(
        triangles=scene.triangles,
        vertex_normals=scene.vertex_normals,
        textures=rng.normal(size=(3, 80, 4, 4)).astype(np.float16),
        texture_index=np.int32([0, 1, 1, 2, 0]),
        emission=uniform(5, 3),
        environment=Environment(uniform(16, 4, 8), uniform(16, 4, 8), np.float32(1.5)),
        volumes=VolumeCells(uniform(2, 64), *(uniform(2, 3) for _ in range(5))),
        camera_to_world=scene.camera_to_world,
        fov_degrees=scene.fov_degrees,
    )


@pytest.fixture
def path(tmp_path, scene_v2):
    save_h5_v2(scene_v2, tmp_path / "scene.h5")
    return tmp_path / "scene.h5"


def assert_same(found, expected):
    for name in SceneV2.__dataclass_fields__:
        a, b = getattr(found, name), getattr(expected, name)
        if isinstance(b, Environment | VolumeCells):
            for field in b.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        else:
            np.testing.assert_array_equal(a, b)


def test_round_trip(path, scene_v2):
    assert_same(load_h5_v2(path, None), scene_v2)


def test_without_environment_and_volumes(tmp_path, scene_v2):
    bare = scene_v2.replace(environment=None, volumes=None)
    save_h5_v2(bare, tmp_path / "bare.h5")
    assert_same(load_h5_v2(tmp_path / "bare.h5", None), bare)
    # For networks that know environments, none is a black one
    black = load_h5_v2(tmp_path / "bare.h5", Encoders()).environment
    assert black.strength == 0


def change(path, **datasets):
    """Replaces datasets; None removes one."""
    with h5py.File(path, "r+") as file:
        for name, value in datasets.items():
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value


def test_the_published_environment_map(path):
    radiance = np.random.default_rng(0).uniform(size=(3, 256, 512)).astype(np.float32)
    latents = ("env_latent_ldr", "env_latent_hdr", "env_lighting_strength")
    change(path, env_map=radiance, **dict.fromkeys(latents))
    environment = load_h5_v2(path, Encoders()).environment
    np.testing.assert_array_equal(environment.latent_ldr, radiance[:, :4, :8])
    with pytest.raises(InputError, match=r"env_map: .*found none.*--latent_encoders"):
        load_h5_v2(path, None)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"texture": np.zeros((5, 13, 4, 4))}, "V2 read, found .* of RenderFormer V1"),
        ({"texture": np.zeros((5, 16, 32, 32))}, "not encoded yet"),
        ({"texture": np.zeros((5, 80))}, r"expected latents \[N, C, T, T\] of RenderFormer V2"),
        ({"texture": np.full((5, 80, 4, 4), np.nan)}, "texture: expected finite values"),
        ({"texture": np.zeros((4, 80, 4, 4))}, "one entry a triangle"),
        ({"light_strength": None}, "light_strength: missing"),
        ({"vn": np.zeros((5, 3))}, "vn: expected shape"),
        ({"volume_position": None}, "V2's volumes too, found no volume_position"),
        ({"volume_position": np.zeros((3, 3))}, r"volume_position: expected shape \[2, 3\]"),
        ({"volume_density": np.full((2, 64), -1.0)}, "volume_density: expected values >= 0"),
        ({"env_latent_hdr": None}, "V2's environment too, found no env_latent_hdr"),
        ({"env_latent_hdr": np.zeros((16, 4, 4))}, "env_latent_hdr: expected shape"),
        ({"c2w": np.zeros((2, 4, 4))}, "c2w: expected a last row"),
        ({"fov": np.zeros(2)}, "fov: expected degrees"),
    ],
)
def test_bad_files(path, datasets, message):
    change(path, **datasets)
    with pytest.raises(InputError, match=message) as error:
        load_h5_v2(path, None)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("shape", [(3, 128, 256), (256, 512, 3)])
def test_environment_maps_of_another_size(path, shape):
    latents = ("env_latent_ldr", "env_latent_hdr", "env_lighting_strength")
    change(path, env_map=np.zeros(shape, np.float32), **dict.fromkeys(latents))
    with pytest.raises(InputError, match=r"env_map: expected \[3, 256, 512\].*V2 reads"):
        load_h5_v2(path, Encoders())


def test_files_of_the_other_generation(path, tmp_path, scene):
    with pytest.raises(InputError, match="only weights of V2 read"):
        load_h5(path)
    save_h5(scene, tmp_path / "v1.h5")
    with pytest.raises(InputError, match=r"V2 read, found .* of RenderFormer V1"):
        load_h5_v2(tmp_path / "v1.h5", None)


def test_what_is_larger_than_it_can_be_is_not_read(path):
    change(path, env_latent_ldr=np.zeros((1100, 64, 64), np.float32))  # 17 MiB
    with pytest.raises(InputError, match="env_latent_ldr: expected at most"):
        load_h5_v2(path, None)


def test_raw_volumes_are_refused(path):
    change(path, volume_density=None, volume_data=np.zeros((2, 4, 4, 4)))
    names = ("position", "rotation", "scale", "scattering_scale", "absorption_scale")
    change(path, **{f"volume_{name}": None for name in names})
    with pytest.raises(InputError, match=r"volume_data: .*not processed yet"):
        load_h5_v2(path, None)


@pytest.mark.parametrize(("field", "sign"), [("emission", 1), ("textures", 1), ("textures", -1)])
def test_values_beyond_float16_are_not_written(tmp_path, scene_v2, field, sign):
    large = np.full(np.shape(getattr(scene_v2, field)), sign * 1e5, np.float32)
    with pytest.raises(InputError, match=f"{field}: expected values up to 65504, found 100000"):
        save_h5_v2(scene_v2.replace(**{field: large}), tmp_path / "bright.h5")
    assert not list(tmp_path.iterdir())
