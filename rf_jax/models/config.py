"""The network's configuration: the flat `config.json` of the published checkpoints, typed."""

import dataclasses
import difflib
import typing
from typing import Any, Literal

from rf_jax.attention import get_attention_fn
from rf_jax.attention.performer import PerformerOptions
from rf_jax.errors import InputError

NormType = Literal["rms_norm", "layer_norm"]

WINDOW_SIZE = 8
"""Ray patches a side of a window of the shifted-window self attention."""

_FIXED = {
    "dropout": 0.0,
    "norm_first": True,
    "rope_type": "triangle",
    "texture_channels": 13,
    "vdir_pe_type": "nerf",
}
"""Published keys for which this network has one value; written, and checked when read."""

_OURS = {
    "view_independent_attention",
    "view_dependent_attention",
    "performer_features",
    "performer_hyperbolic",
    "performer_center_keys",
    "performer_temperature",
}
"""Fields that the published configuration does not have."""

_MAY_BE_ZERO = {"vdir_num_freqs", "vn_pe_num_freqs", "dpt_out_layers"}

_LARGEST = 2**16
"""Of any size: beyond it is a mistake, better said than allocated."""

_NEUTRAL = {
    "decoding_method": "view_transformer",
    "register_token_pe": "weighted_mean",
}
"""Later keys whose named value is what this network does; `null` and `false` always are."""

_IGNORED = {"custom_init"}
"""Later keys that only concern how training began."""


@dataclasses.dataclass(frozen=True)
class RenderFormerConfig:
    """One network; the defaults are the published V1-Base.

    Field names are those of `config.json`, so that a file is read and written without a mapping.
    """

    latent_dim: int = 768  # width of the view-independent stage
    num_layers: int = 12
    num_heads: int = 6
    dim_feedforward: int = 3072
    num_register_tokens: int = 16
    activation: Literal["swiglu", "gelu"] = "swiglu"
    norm_type: NormType = "rms_norm"
    view_indep_qk_norm: bool = True  # norm queries and keys in the view-independent stage
    qk_norm: bool = True  # the same in the view-dependent stage
    bias: bool = False  # in the linear layers of both transformers

    pe_type: Literal["rope", "nerf"] = "rope"  # how tokens learn where triangles are
    vertex_pe_num_freqs: int = 12  # rope: twice the frequencies a coordinate; nerf: frequencies
    rope_double_max_freq: bool = False

    use_vn_encoder: bool = True  # feed vertex normals
    vn_pe_num_freqs: int = 6
    vn_encoder_norm_type: Literal["rms_norm", "layer_norm", "none"] = "rms_norm"

    texture_encode_patch_size: int = 32  # texels a side; 1: one value a triangle
    texture_encoder_norm_type: NormType = "rms_norm"

    view_transformer_latent_dim: int = 768
    view_transformer_ffn_hidden_dim: int = 3072
    view_transformer_n_heads: int = 6
    view_transformer_n_layers: int = 6
    view_transformer_include_self_attn: bool = True  # rays attend to rays
    view_transformer_use_swin_attn: bool = False  # ... in shifted 8x8 windows
    vdir_num_freqs: int = 0  # frequencies that encode ray directions
    patch_size: int = 8  # pixels a side of a ray patch
    turn_to_cam_coord: bool = True  # the view stage sees triangles in camera space

    use_dpt_decoder: bool = True  # else one linear layer makes the pixels
    dpt_features: int = 128
    dpt_out_channels: tuple[int, ...] = (96, 192, 384, 768)
    dpt_out_layers: tuple[int, ...] | None = None  # layers tapped; None: the last four
    include_alpha: bool = False
    use_ldr: bool = False  # plain radiance in and out instead of log10(1 + radiance)

    # Ours; written to files only where they differ from these.
    view_independent_attention: str = "auto"  # a name of rf_jax.attention
    view_dependent_attention: str = "auto"
    performer_features: int | None = None  # None: hd ln hd
    performer_hyperbolic: bool = False
    performer_center_keys: bool = False
    performer_temperature: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        self._check_ranges()
        for name in (self.view_independent_attention, self.view_dependent_attention):
            get_attention_fn(name)
        self._check_heads("latent_dim", self.latent_dim, self.num_heads, self.rope_dim)
        self._check_heads(
            "view_transformer_latent_dim",
            self.view_transformer_latent_dim,
            self.view_transformer_n_heads,
            self.view_rope_dim,
        )
        self._check_decoder()

    @property
    def rope_dim(self) -> int:
        """Twice the frequencies a coordinate of the view-independent stage; 0 without RoPE."""
        return self.vertex_pe_num_freqs if self.pe_type == "rope" else 0

    @property
    def view_rope_dim(self) -> int:
        """The same for the view-dependent stage, whose heads may be narrower."""
        head_dim = self.view_transformer_latent_dim // self.view_transformer_n_heads
        return min(self.rope_dim, head_dim // 18 * 2)

    @property
    def performer(self) -> PerformerOptions:
        """The options of stages whose attention is "performer"."""
        return PerformerOptions(
            num_features=self.performer_features,
            hyperbolic=self.performer_hyperbolic,
            center_keys=self.performer_center_keys,
            temperature=self.performer_temperature,
        )

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers of the view-dependent stage whose residual stream the decoder reads."""
        depth = self.view_transformer_n_layers
        if not self.use_dpt_decoder:
            return (depth - 1,)
        return self.dpt_out_layers or tuple(range(depth - 4, depth))

    @property
    def image_channels(self) -> int:
        return 4 if self.include_alpha else 3

    @property
    def resolution_multiple(self) -> int:
        """Image sides must be multiples of this."""
        swin = self.view_transformer_include_self_attn and self.view_transformer_use_swin_attn
        return self.patch_size * (WINDOW_SIZE if swin else 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RenderFormerConfig":
        """Reads the published flat object.

        Unknown keys pass when their value is off or what this network does anyway.

        Raises:
          InputError: a key that switches on something this network does not compute, or a value
            of the wrong type or range; the message names the key.
        """
        if not isinstance(values, dict):
            raise InputError(f"expected a flat JSON object, found {type(values).__name__}")
        names = {field.name for field in dataclasses.fields(cls)}
        known = {key: value for key, value in values.items() if key in names}
        for key in values.keys() - names:
            _check_other_key(key, values[key], names)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})

    def to_dict(self) -> dict[str, Any]:
        """The flat object that the published loaders read."""
        values = dataclasses.asdict(self) | _FIXED
        for field in dataclasses.fields(self):
            if field.name in _OURS and values[field.name] == field.default:
                del values[field.name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(values.items())}

    def _check_ranges(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            lowest = 0 if field.name in _MAY_BE_ZERO else 1
            if any(type(n) is int and not lowest <= n <= _LARGEST for n in numbers):
                raise InputError(
                    f"{field.name}: expected {lowest} to {_LARGEST}, found {str(value)[:80]}"
                )

    def _check_heads(self, name: str, width: int, heads: int, rope_dim: int):
        if width % heads or (width // heads) % 2:
            raise InputError(f"{name}: {width} does not split into {heads} heads of even width")
        head_dim = width // heads
        if self.pe_type == "rope" and (rope_dim % 2 or rope_dim == 0 or 9 * rope_dim > head_dim):
            raise InputError(
                f"vertex_pe_num_freqs: RoPE needs an even number from 2 to {head_dim // 9} for "
                f"heads of {head_dim} ({name} {width} / {heads} heads), found {rope_dim}"
            )

    def _check_decoder(self):
        depth = self.view_transformer_n_layers
        if not self.use_dpt_decoder:
            return
        if len(self.dpt_out_channels) != 4:
            raise InputError(f"dpt_out_channels: expected 4, found {list(self.dpt_out_channels)}")
        if self.dpt_out_layers is None and depth < 4:
            raise InputError(
                f"view_transformer_n_layers: the DPT decoder reads the last 4 layers, found {depth}"
                "; name them in dpt_out_layers"
            )
        taps = self.taps
        if len(taps) != 4 or sorted(taps) != list(taps) or not 0 <= taps[0] <= taps[-1] < depth:
            raise InputError(
                f"dpt_out_layers: expected 4 ascending layers below {depth}, found {list(taps)}"
            )
        if self.dpt_features < 2:
            raise InputError(f"dpt_features: expected at least 2, found {self.dpt_features}")


def _check_type(name: str, value: Any, expected: Any):
    options = typing.get_args(expected)
    if typing.get_origin(expected) is Literal:
        if value not in options:
            raise InputError(f"{name}: expected one of {list(options)}, found {value!r}")
    elif expected in (int, bool, str):
        if type(value) is not expected:
            raise InputError(f"{name}: expected {expected.__name__}, found {value!r}")
    elif value is None and type(None) in options:
        return
    elif expected == int | None:
        if type(value) is not int:
            raise InputError(f"{name}: expected int or null, found {value!r}")
    elif not isinstance(value, tuple) or not all(type(v) is int for v in value):
        raise InputError(f"{name}: expected a list of integers, found {value!r}")


def _check_other_key(key: str, value: Any, names: set[str]):
    if key in _IGNORED:
        return
    if key in _FIXED:
        if value != _FIXED[key]:
            raise InputError(f"{key}: this network computes {_FIXED[key]!r} only, found {value!r}")
        return
    if value is None or value is False or value == _NEUTRAL.get(key, object()):
        return
    close = difflib.get_close_matches(key, names | _FIXED.keys(), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"{key}: {value!r} switches on something this network does not compute{hint}")


VARIANTS = {
    "v1_base": RenderFormerConfig(),
    "v1.1_large_swin": RenderFormerConfig(
        latent_dim=1024,
        num_heads=8,
        dim_feedforward=4096,
        num_register_tokens=32,
        rope_double_max_freq=True,
        texture_encode_patch_size=1,
        view_transformer_latent_dim=1024,
        view_transformer_ffn_hidden_dim=4096,
        view_transformer_n_heads=8,
        view_transformer_n_layers=12,
        view_transformer_use_swin_attn=True,
        dpt_features=256,
        dpt_out_channels=(256, 512, 1024, 1024),
        dpt_out_layers=(2, 5, 8, 11),
    ),
    # Small enough for tests and smoke pictures.
    "testing": RenderFormerConfig(
        latent_dim=36,
        num_layers=2,
        num_heads=1,
        dim_feedforward=48,
        num_register_tokens=2,
        vertex_pe_num_freqs=4,
        texture_encode_patch_size=2,
        view_transformer_latent_dim=36,
        view_transformer_ffn_hidden_dim=48,
        view_transformer_n_heads=1,
        view_transformer_n_layers=4,
        dpt_features=4,
        dpt_out_channels=(2, 3, 4, 6),
    ),
}
"""The published networks, and one small enough for tests."""
