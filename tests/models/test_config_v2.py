"""The configuration of RenderFormer V2: what is read, what is refused, what is written."""

import dataclasses

import pytest

from rf_jax.attention.sliding_sink import SlidingSinkOptions
from rf_jax.errors import InputError
from rf_jax.models import VARIANTS, RenderFormerConfig

SMALL = VARIANTS["testing_v2"]
PUBLISHED = VARIANTS["v2_200m"].to_dict()


def test_the_published_sizes_are_those_of_the_variant():
    assert PUBLISHED["local_attention_window_size_half"] == 256
    assert PUBLISHED["summary_block_size"] == 64 and PUBLISHED["rope_type"] == "triangle_center"
    ours = ("encoder_norm_eps", "sliding_sink_window", "view_independent_attention")
    assert not any(key in PUBLISHED for key in (*ours, "turn_to_cam_coord", "use_ldr"))
    config = VARIANTS["v2_200m"]
    assert config.view_independent.rope_dim == config.view_dependent.rope_dim == 40


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_local_attention", True),
        ("put_light_tokens_in_sink", False),
        ("put_env_tokens_in_sink", False),
        ("put_light_tokens_first", False),
        ("add_summary_tokens", False),
        ("use_triangle_ordering", False),
        ("triangle_ordering_order", "z"),
        ("volume_use_density_mlp", False),
        ("volume_density_input_dim", 8),
        ("rope_type", "triangle"),
        ("separate_light_strength", False),
        ("auto_interpolate_texture", False),
        ("turn_to_cam_coord", True),
        ("norm_type", "layer_norm"),
        ("use_view_token", True),
        ("use_perceiver", True),
        ("deepstack_injection_map", {"0": 1}),
        ("num_kv_heads", 2),
        ("log_roughness_encoding", True),
        ("latent_vae_model_id", "some/vae"),
        ("texture_channels", 0),
        ("summary_block_size", True),
        ("intra_rope_pe_num_freqs", 7),
        ("encoder_norm_eps", 0),
        ("local_attention_window_size_half", 0),
    ],
)
def test_other_values_are_refused_by_name(key, value):
    with pytest.raises(InputError, match=key):
        RenderFormerConfig.from_dict(PUBLISHED | {key: value})


def test_the_window_is_the_option_of_the_attention():
    values = PUBLISHED | {"local_attention_window_size_half": 8}
    config = RenderFormerConfig.from_dict(values)
    assert config.view_independent.attention.options == SlidingSinkOptions(window=8)
    assert config.to_dict() == values


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(SMALL, view_independent_attention="auto"),
        dataclasses.replace(SMALL, v2=dataclasses.replace(SMALL.v2, encoder_norm_eps=1e-5)),
        dataclasses.replace(
            SMALL, v2=dataclasses.replace(SMALL.v2, use_env_lighting=False, use_volumes=False)
        ),
    ],
)
def test_what_differs_from_the_published_is_written(config):
    assert RenderFormerConfig.from_dict(config.to_dict()) == config
    assert RenderFormerConfig.from_dict(config.to_flat()) == config


def test_generations_do_not_mix():
    with pytest.raises(InputError, match="pe_type"):
        dataclasses.replace(SMALL, v2=None)
    with pytest.raises(InputError, match="pe_type"):
        dataclasses.replace(SMALL, pe_type="rope")
    for key in ("use_env_lighting", "summary_block_size"):
        with pytest.raises(InputError, match=key):
            RenderFormerConfig.from_dict({key: PUBLISHED[key]})
    with pytest.raises(InputError, match="view_dependent_attention: sliding_sink"):
        dataclasses.replace(SMALL, view_dependent_attention="sliding_sink")
