"""Configurations whose sizes ask for hours or terabytes are refused by the size of the weights."""

import json
import math
import os

import pytest

from rf_jax.errors import InputError
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.weights import convert
from rf_jax.weights.pretrained import load_pretrained, save_hugging_face_folder

LINEAR_DECODER = RenderFormerConfig(
    use_dpt_decoder=False, use_vn_encoder=False, activation="gelu", bias=True
)


@pytest.mark.parametrize("config", [*VARIANTS.values(), LINEAR_DECODER])
def test_a_lower_bound_of_the_parameters(config):
    count = sum(map(math.prod, convert.variable_shapes(config).values()))
    assert count / 2 < convert.least_parameters(config) <= count


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 65536},
        {"view_transformer_n_layers": 65536},
        {"texture_encode_patch_size": 65536},
        {"latent_dim": 65536, "dim_feedforward": 65536},
        {"dpt_features": 65536, "dpt_out_channels": [65536] * 4},
    ],
)
def test_large_sizes_are_refused_at_once(tmp_path, config, changes):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | changes))
    (tmp_path / "model.safetensors").write_bytes(bytes(10**6))
    words = r"the sizes in config.json ask for .* parameters or more, .* 1,000,000 bytes cannot"
    with pytest.raises(InputError, match=rf"model\.safetensors: {words}"):
        load_pretrained(tmp_path)


def test_a_sparse_file(tmp_path, config):
    """Its size is compared before its checksum, which would take minutes."""
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  model.safetensors\n")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "model.safetensors").touch()
    os.truncate(tmp_path / "model.safetensors", 50 * 2**30)
    with pytest.raises(InputError, match=r"expected at most .* bytes .* found 53,687,091,200"):
        load_pretrained(tmp_path)


def test_long_lists_of_checksums(tmp_path, config, variables):
    save_hugging_face_folder(tmp_path, variables, config.to_dict())
    os.truncate(tmp_path / "SHA256SUMS", 50 * 2**30)
    with pytest.raises(InputError, match="SHA256SUMS: expected at most 1 MiB, found 51200 MiB"):
        load_pretrained(tmp_path)


def test_special_files(tmp_path, config):
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        (folder / "model.safetensors").touch()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match=rf"{name}: expected a regular file, found a pipe"):
            load_pretrained(folder)
    with pytest.raises(InputError, match="xxx: no such folder"):
        load_pretrained("x" * 300)
