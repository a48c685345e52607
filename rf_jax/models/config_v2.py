"""What RenderFormer V2 (arXiv 2609.05738) adds to a network's configuration.

V2's published configuration holds many switches. This network computes what the published weights
use, so most of them have one value, which is checked when a file is read and written with it.
"""

import dataclasses
from typing import Annotated, Any

from rf_jax import schema
from rf_jax.errors import InputError
from rf_jax.schema import Limit, Size

PE_TYPE = "rope_only_center"
"""The `pe_type` that marks a configuration as one of V2."""

ATTENTION = "sliding_sink"
"""The attention of the view-independent stage, unless a configuration names another."""

WINDOW = "local_attention_window_size_half"
"""The published key of its window, which here is an option of that attention."""

VOLUME_INPUTS = 64
"""Densities of a volume cell."""

Epsilon = Annotated[float, Limit("in (0, 1)", lambda x: 0 < x < 1)]

_FIXED = {
    "activation": "swiglu",
    "add_summary_tokens": True,
    "auto_interpolate_texture": True,
    "bias": False,
    "dropout": 0.0,
    "envmap_encoder_norm_type": "rms_norm",
    "norm_first": True,
    "norm_type": "rms_norm",
    "pe_type": PE_TYPE,
    "put_env_tokens_in_sink": True,
    "put_light_tokens_first": True,
    "put_light_tokens_in_sink": True,
    "rope_type": "triangle_center",
    "separate_light_strength": True,
    "texture_encoder_norm_type": "rms_norm",
    "triangle_ordering_order": "hilbert",
    "turn_to_cam_coord": False,
    "use_ldr": False,
    "use_local_attention": False,
    "use_triangle_ordering": True,
    "use_vn_encoder": True,
    "vdir_pe_type": "nerf",
    "vn_encoder_norm_type": "rms_norm",
    "volume_density_input_dim": VOLUME_INPUTS,
    "volume_use_density_mlp": True,
}
"""Keys of which this network supports one value. The one of `use_local_attention` is false in the
published file although the window is used."""

_IGNORED = (
    "deepstack_dual_input_size",
    "envmap_vae_model_id",
    "flex_attention_block_size",
    "num_perceiver_tokens",
    "texture_decode_patch_size",
    "use_flex_attention",
    "view_transformer_triangle_ordering_order",
)
"""Keys that say how the original computes, or that belong to switches that are off."""

_NOT_WRITTEN = ("turn_to_cam_coord", "use_ldr")
"""Keys of V1 that V2 has elsewhere: in the part of its file that configures the trainer."""


@dataclasses.dataclass(frozen=True)
class V2Config:
    """The sizes that only V2 has; field names are those of its published configuration."""

    intra_rope_pe_num_freqs: Size = 40  # twice the number of RoPE frequencies per coordinate
    texture_channels: Size = 80  # of a material's latent
    use_env_lighting: bool = True
    envmap_latent_channels: Size = 16
    envmap_latent_patch_size: Size = 8  # side of a token's patch of the environment's latent
    envmap_ray_dir_map_patch_size: Size = 64  # side of its patch of the directions
    use_volumes: bool = True
    summary_block_size: Size = 64  # tokens that one summary token stands for

    # Not in published files; 1e-6 is what the fused norms of the original's GPU code use.
    encoder_norm_eps: Epsilon = 1e-6

    def __post_init__(self):
        schema.check_fields(self)


def split_keys(values: dict[str, Any]) -> tuple[V2Config | None, dict[str, Any]]:
    """Splits a flat configuration into what only V2 has, and keys that V1 has too.

    Returns:
      None and the same keys for a configuration of V1.

    Raises:
      InputError: a switch of V2 has a value that this network does not compute.
    """
    if values.get("pe_type") != PE_TYPE:
        return None, values
    for key, expected in _FIXED.items():
        found = values.get(key, expected)
        if found != expected or type(found) is not type(expected):
            raise InputError(
                f"{key}: RenderFormer V2 computes {expected!r} only here, found {found!r}"
            )
    hints = schema.flat_hints(V2Config)
    parsed = {key: schema.parse(hints[key], values[key], key) for key in hints if key in values}
    taken = {*hints, *_FIXED, *_IGNORED, WINDOW}
    rest = {key: value for key, value in values.items() if key not in taken}
    rest |= {"pe_type": PE_TYPE, "turn_to_cam_coord": False}
    if WINDOW in values:
        rest["sliding_sink_window"] = schema.parse(Size, values[WINDOW], WINDOW)
    return V2Config(**parsed), {"view_independent_attention": ATTENTION} | rest


def joined_keys(v2: V2Config, values: dict[str, Any]) -> dict[str, Any]:
    """The flat configuration that V2's published loaders read.

    Args:
      v2: what only V2 has.
      values: `RenderFormerConfig.to_flat`'s, which hold the keys of both generations.
    """
    values = {key: value for key, value in values.items() if key not in _NOT_WRITTEN}
    values[WINDOW] = values.pop("sliding_sink_window")
    if v2.encoder_norm_eps == V2Config.encoder_norm_eps:
        del values["encoder_norm_eps"]
    return values | {key: value for key, value in _FIXED.items() if key not in _NOT_WRITTEN}
