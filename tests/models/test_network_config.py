"""The model configuration: published files, neutral keys, and everything refused."""

import dataclasses

import pytest

from rf_jax.errors import InputError
from rf_jax.models import VARIANTS, RenderFormerConfig

LARGE = VARIANTS["v1.1_large_swin"]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_round_trip(config):
    values = config.to_dict()
    assert RenderFormerConfig.from_dict(values) == config
    channels = 13 if config.v2 is None else config.v2.texture_channels
    assert "performer_features" not in values and values["texture_channels"] == channels


def test_our_own_fields_are_written_when_set():
    config = dataclasses.replace(LARGE, view_independent_attention="performer")
    assert config.to_dict()["view_independent_attention"] == "performer"
    assert RenderFormerConfig.from_dict(config.to_dict()) == config


def test_derived_values():
    base = VARIANTS["v1_base"]
    assert (base.taps, LARGE.taps) == ((2, 3, 4, 5), (2, 5, 8, 11))
    assert (base.resolution_multiple, LARGE.resolution_multiple) == (8, 64)
    assert (base.view_independent.rope_dim, base.view_dependent.rope_dim) == (12, 12)
    assert dataclasses.replace(base, view_transformer_n_heads=12).view_dependent.rope_dim == 6


@pytest.mark.parametrize(
    "neutral",
    [
        {"num_kv_heads": None},
        {"use_view_token": False},
        {"register_token_pe": "weighted_mean"},
        {"decoding_method": "view_transformer"},
        {"custom_init": True},
        {"use_perceiver": False, "add_summary_tokens": None},
    ],
    ids=str,
)
def test_neutral_keys_of_later_files_pass(neutral):
    assert RenderFormerConfig.from_dict(LARGE.to_dict() | neutral) == LARGE


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("num_kv_heads", 2, "num_kv_heads: 2 switches on"),
        ("use_view_token", True, "use_view_token: True switches on"),
        ("register_token_pe", "none", "register_token_pe: 'none' switches on"),
        ("num_layer", 3, "did you mean num_layers"),
        ("dropout", 0.1, "dropout: this network computes 0.0 only, found 0.1"),
        ("rope_type", "triangle_mixed", "rope_type: .* found 'triangle_mixed'"),
        ("texture_channels", 14, "texture_channels: .* found 14"),
        ("num_layers", "12", "num_layers: expected an integer .*found .12."),
        ("num_layers", True, "num_layers: expected an integer .*found true"),
        ("num_layers", 0, "num_layers: expected an integer in \\[1, 65536\\], found 0"),
        ("latent_dim", 2**40, "latent_dim: expected an integer in"),
        (
            "view_independent_attention",
            {},
            "view_independent_attention: expected a string, found {}",
        ),
        ("bias", 1, "bias: expected true or false, found 1"),
        ("activation", "relu", "activation: expected one of .*swiglu.* found .relu."),
        ("dpt_out_channels", [1, 2], "dpt_out_channels: expected 4, found"),
        ("dpt_out_channels", 96, "dpt_out_channels: expected a list .*found 96"),
        ("dpt_out_layers", [0, 1, 2, 12], "dpt_out_layers: expected 4 ascending layers below 12"),
        ("dpt_out_layers", [3, 2, 1, 0], "dpt_out_layers: expected 4 ascending layers"),
        ("view_transformer_n_layers", 3, "dpt_out_layers: expected 4 ascending layers below 3"),
        ("num_heads", 7, "latent_dim: 1024 does not split into 7 heads"),
        ("vertex_pe_num_freqs", 16, "vertex_pe_num_freqs: RoPE needs an even number from 2 to 14"),
        ("vertex_pe_num_freqs", 5, "vertex_pe_num_freqs: RoPE needs an even number"),
        ("view_independent_attention", "softmax", "attention: expected one of .*'softmax'"),
        ("performer_features", 1.5, "performer_features: expected an integer .*found 1.5"),
    ],
)
def test_what_the_network_does_not_compute_is_refused(key, value, found):
    with pytest.raises(InputError, match=found):
        RenderFormerConfig.from_dict(LARGE.to_dict() | {key: value})


def test_not_an_object():
    with pytest.raises(InputError, match="flat JSON object, found list"):
        RenderFormerConfig.from_dict([1])
