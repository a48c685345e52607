"""convert_weights.py: the Performer fork's .pt files, and sources it must refuse."""

import dataclasses
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from pt_files import write_pt, write_state_dict

from rf_jax.attention.performer import PerformerOptions
from rf_jax.errors import InputError
from rf_jax.weights import convert
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_pretrained, save_hugging_face_folder
from rf_jax.weights.random_weights import random_variables
from rf_jax.weights.torch_files import read_safetensors

CONVERT = "convert_weights.py"


@pytest.fixture
def fork(tmp_path, config):
    """The tensors of fork.pt, with projections; its config.json, like the fork's, has no word of
    them."""
    performer = dataclasses.replace(
        config,
        view_independent_attention="performer",
        attention_options=(PerformerOptions(features=20),),
    )
    tensors = convert.to_torch(random_variables(performer, seed=0), performer)
    names = {f"module.{name}": tensor for name, tensor in tensors.items()}
    write_state_dict(tmp_path / "fork.pt", names, epoch=5, loss=0.25)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return tensors


def test_a_performer_checkpoint_goes_there_and_back(command, tmp_path, fork):
    status, out, _ = command(CONVERT, "fork.pt", "flax", "--model_config", "config.json")
    count = sum(tensor.size for tensor in fork.values())
    assert status == 0 and f"{count:,} parameters from fork.pt" in out
    variables, _, values = load_pretrained(tmp_path / "flax")
    assert values["view_independent_attention"] == "performer"
    assert values["performer_features"] == 20
    attention = variables["constants"]["view_independent"]["layers"]["attention"]
    name = "transformer.layers.1.multihead_attn.fast_attention.projection_matrix"
    assert np.array_equal(attention["performer"]["projection"][1], fork[name])
    assert command(CONVERT, "--to_torch", "flax", "back")[0] == 0
    back = read_safetensors(tmp_path / "back" / "model.safetensors")
    assert back.keys() == fork.keys()
    assert all(np.array_equal(back[name], fork[name]) for name in fork)
    image = ("render.py", "blue_room", "--resolution", "64", "--checkpoint", "flax")
    status, out, _ = command(*image)
    assert status == 0 and "exact attention" not in out


def test_half_precision_halves_the_file(command, refused, tmp_path, config):
    variables = random_variables(config, seed=0)
    save_checkpoint(tmp_path / "plain", variables, config.to_dict())
    assert command(CONVERT, "--to_torch", "plain", "full")[0] == 0
    assert command(CONVERT, "--to_torch", "--half", "plain", "half")[0] == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    rounded = load_pretrained(tmp_path / "half").variables
    for a, b in zip(*map(jax.tree.leaves, (variables, rounded)), strict=True):
        np.testing.assert_allclose(np.float32(b), a, rtol=1e-3, atol=1e-6)
    variables["params"]["view_dependent"]["ray_token"] *= 1e6
    save_checkpoint(tmp_path / "large", variables, config.to_dict())
    assert "is beyond float16" in refused(CONVERT, "--to_torch", "--half", "large", "out")


@pytest.mark.parametrize("projection", [np.float32(1), np.zeros((20, 3), np.float32)])
def test_projections_that_do_not_fit(refused, tmp_path, fork, projection):
    name = "transformer.layers.0.multihead_attn.fast_attention.projection_matrix"
    write_state_dict(tmp_path / "bad.pt", fork | {name: projection})
    error = refused(CONVERT, "bad.pt", "out", "--model_config", "config.json")
    assert f"misshaped: {name}" in error or ("misshaped" in error and name in error)
    assert not (tmp_path / "out").exists()


def test_every_misfit_is_named(refused, tmp_path, fork):
    del fork["tri_token"]
    fork["reg_tokens"] = fork["reg_tokens"][:, :-1]
    fork["surplus"] = np.zeros(3)
    write_state_dict(tmp_path / "bad.pt", fork)
    error = refused(CONVERT, "bad.pt", "out", "--model_config", "config.json")
    assert error.startswith("error: bad.pt: the weights do not fit the configuration: ")
    for part in ("1 missing: tri_token", "1 unexpected: surplus", "1 misshaped: reg_tokens"):
        assert part in error


class Hostile:
    """Unpickling it writes a file."""

    def __reduce__(self):
        return open, ("pwned", "w")


@pytest.mark.parametrize(
    "checkpoint",
    [
        Hostile(),
        {"model_state_dict": Hostile()},
        {"model_state_dict": {}, "optimizer_state_dict": [Hostile()]},
    ],
)
def test_a_hostile_pickle_runs_nothing(refused, tmp_path, fork, checkpoint):
    write_pt(tmp_path / "bad.pt", pickle.dumps(checkpoint))
    before = sorted(tmp_path.iterdir())
    error = refused(CONVERT, "bad.pt", "out", "--model_config", "config.json")
    assert "bad.pt: refuses to run" in error and "open" in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fork.pt", "out"), "give --model_config"),
        (("none.pt", "out", "--model_config", "config.json"), "none.pt: no such file"),
        (("fork.pt", "out", "--model_config", "none.json"), "none.json: no such file"),
        (("fork.pt", "out", "--model_config", "fork.pt"), "fork.pt: expected UTF-8 text"),
        (("torch", "out", "--model_config", "config.json"), "--model_config belongs to .pt files"),
        (("nowhere", "out"), "nowhere: no such folder, nor a hub id"),
        (("empty", "out"), "empty: expected a folder with config.json"),
        (("torch", "config.json"), "config.json: cannot be written"),
        (("torch", "config.json/below"), "config.json/below: cannot be written"),
        (("torch", "/proc/out"), "/proc/out: cannot be written"),
        (("--to_torch", "torch", "config.json"), "cannot be written"),
        (("torch", "other"), "other: exists and is not a checkpoint"),
        (("--to_torch", "torch", "ours"), "ours: holds the config.json of another network"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_sources_and_destinations(refused, tmp_path, config, variables, fork, arguments, expected):
    save_hugging_face_folder(tmp_path / "torch", variables, config.to_dict())
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    save_checkpoint(tmp_path / "ours", variables, config.to_dict())
    before = sorted(tmp_path.rglob("*"))
    assert expected in refused(CONVERT, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_flipped_bit_in_an_export_is_refused(command, refused, tmp_path, config, variables):
    save_hugging_face_folder(tmp_path / "torch", variables, config.to_dict())
    weights = tmp_path / "torch" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    assert "model.safetensors: damaged" in refused(CONVERT, "torch", "out")
    save_hugging_face_folder(tmp_path / "torch", variables, config.to_dict())
    assert command(CONVERT, "torch", "out")[0] == 0


def test_the_bundled_network_has_checksums(tmp_path):
    folder = shutil.copytree(BUNDLED_WEIGHTS, tmp_path / "rooms")
    load_pretrained(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(10**6)
        file.write(b"damage")
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_layers": 3}, "9 missing: transformer.layers.2."),
        ({"num_layers": 1}, "9 unexpected: transformer.layers.1."),
        ({"dim_feedforward": 40}, "6 misshaped: transformer.layers.0.ffn.w1.weight"),
        ({"vertex_pe_num_freqs": 6}, "config.json: vertex_pe_num_freqs: RoPE needs"),
        ({"use_fancy_attention": True}, "config.json: use_fancy_attention: True switches on"),
        (
            {"latent_dim": "36"},
            'config.json: latent_dim: expected an integer in [1, 65536], found "36"',
        ),
    ],
)
def test_configurations_that_do_not_fit(refused, tmp_path, config, variables, changes, expected):
    folder = tmp_path / "torch"
    save_hugging_face_folder(folder, variables, config.to_dict())
    (folder / "config.json").write_text(json.dumps(config.to_dict() | changes))
    assert expected in refused(CONVERT, folder, "out")
    assert not (tmp_path / "out").exists()


def test_out_of_memory_does_not_speak_of_images(refused, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("rf_jax.commands.convert.load_pretrained", fail)
    error = refused(CONVERT, "a", "b")
    assert "out of memory" in error and "--resolution" not in error
