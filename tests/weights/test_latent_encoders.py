"""The networks that prepare scenes for RenderFormer V2: parity, conversion, bad files."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.models.material_mapper import CONFIGS, PARAMETERS
from rf_jax.models.vae_encoder import VaeEncoderConfig
from rf_jax.weights import latent_encoders
from rf_jax.weights.latent_encoders import VAE
from rf_jax.weights.torch_files import read_safetensors, write_safetensors

DATA = Path(__file__).parents[1] / "data" / "goldens_v2" / "data"
VAE_FOLDER = DATA / "qwen_vae_tiny"
TOLERANCE = 1e-5


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def networks():
    return latent_encoders.read_published(DATA, VAE_FOLDER)


@pytest.mark.parametrize("name", PARAMETERS)
def test_mappers_compute_what_the_published_ones_do(networks, name):
    golden = np.load(DATA / "mappers.npz")
    network = networks[name]
    latents = network.module.apply(network.variables, golden[f"{name}_parameters"])
    assert relative_error(latents, golden[f"{name}_latents"]) < TOLERANCE
    assert network.module.config == CONFIGS[name]


def test_the_vae_encoder_computes_what_diffusers_does(networks):
    golden = np.load(VAE_FOLDER / "images_latents.npz")
    images = golden["images"].transpose(0, 2, 3, 1)
    latents = jax.jit(networks[VAE].module.apply)(networks[VAE].variables, images)
    assert relative_error(latents.transpose(0, 3, 1, 2), golden["latent_mean"]) < TOLERANCE


def test_the_published_sizes():
    """Without the temporal slices, the published 53.6 million are 19.3 million."""
    networks = latent_encoders.random_networks(VaeEncoderConfig(base_dim=8), seed=0)
    counts = [sum(x.size for x in jax.tree.leaves(networks[n].variables)) for n in PARAMETERS]
    assert counts == [18_697, 18_441, 201_737]
    module = latent_encoders.VaeEncoder(VaeEncoderConfig())
    image = np.zeros((1, 8, 8, 3), np.float32)
    leaves = jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), image))
    assert sum(leaf.size for leaf in leaves) == 19_307_648


def test_round_trip_bit_for_bit(networks, tmp_path):
    latent_encoders.save_latent_encoders(tmp_path / "encoders", networks)
    again = latent_encoders.load_latent_encoders(tmp_path / "encoders")
    assert again.keys() == networks.keys()
    for name, network in networks.items():
        assert again[name].module == network.module
        equal = jax.tree.map(np.array_equal, again[name].variables, network.variables)
        assert jax.tree.all(equal)


def test_a_flipped_bit_is_noticed(networks, tmp_path):
    latent_encoders.save_latent_encoders(tmp_path, networks)
    path = tmp_path / latent_encoders.WEIGHTS_NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        latent_encoders.load_latent_encoders(tmp_path)


@pytest.fixture
def published(tmp_path):
    """A copy of the published files that a test may spoil."""
    shutil.copytree(DATA, tmp_path / "published")
    return tmp_path / "published"


def spoil(path, change):
    tensors = read_safetensors(path)
    change(tensors)
    write_safetensors(path, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("quant_conv.bias"), "1 missing: quant_conv.bias"),
        (lambda t: t.update(more=np.zeros(1, np.float32)), "1 unexpected: more"),
        (
            lambda t: t.update({"quant_conv.bias": np.zeros(3, np.float32)}),
            r"quant_conv.bias: expected \(32,\), found \(3,\)",
        ),
    ],
)
def test_other_tensors_are_refused(published, change, message):
    folder = published / "qwen_vae_tiny"
    spoil(folder / "diffusion_pytorch_model.safetensors", change)
    with pytest.raises(InputError, match=message):
        latent_encoders.read_published(published, folder)


def test_the_decoder_is_left_out(networks, published):
    def add_decoder(tensors):
        tensors["decoder.conv_in.weight"] = np.zeros((2, 2), np.float32)
        tensors["post_quant_conv.bias"] = np.zeros(2, np.float32)

    folder = published / "qwen_vae_tiny"
    spoil(folder / "diffusion_pytorch_model.safetensors", add_decoder)
    again = latent_encoders.read_published(published, folder)[VAE]
    assert jax.tree.all(jax.tree.map(np.array_equal, again.variables, networks[VAE].variables))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_class_name", "AutoencoderKL", "expected AutoencoderKLQwenImage"),
        ("attn_scales", [1.0], "no attn_scales"),
        ("base_dim", 2**20, "base_dim: expected an integer in"),
        ("dim_mult", [1] * 100, "dim_mult: expected"),
        ("base_dim", 16, "misshaped"),
    ],
)
def test_other_autoencoders_are_refused(published, key, value, message):
    path = published / "qwen_vae_tiny" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message):
        latent_encoders.read_published(published, path.parent)


def test_a_missing_mapper_is_named(published):
    shutil.rmtree(published / "metallic_mapper")
    (published / "metallic_mapper").mkdir()
    with pytest.raises(InputError, match=r"metallic_mapper: expected a folder with config\.json"):
        latent_encoders.read_published(published, VAE_FOLDER)


def test_other_folders_are_refused(tmp_path, networks):
    with pytest.raises(InputError, match="rf-jax-convert --latent_encoders"):
        latent_encoders.load_latent_encoders(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="another network"):
        latent_encoders.save_latent_encoders(tmp_path, networks)


def test_the_command(command, tmp_path):
    arguments = ("--latent_encoders", DATA, "encoders", "--vae", VAE_FOLDER)
    status, out, _ = command("convert_weights.py", *arguments)
    assert status == 0 and "diffspec_mapper, 18,697 parameters" in out
    assert latent_encoders.load_latent_encoders(tmp_path / "encoders").keys() == {*PARAMETERS, VAE}


def test_the_command_refuses_other_options(refused):
    line = refused("convert_weights.py", "--latent_encoders", "--half", DATA, "encoders")
    assert "--latent_encoders goes with --vae only" in line
