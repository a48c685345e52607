"""The network's configuration: the flat `config.json` of the published checkpoints, typed."""

import dataclasses
import difflib
import functools
import typing
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

from rf_jax import schema, trained_on
from rf_jax.attention import ATTENTIONS, Attention, get_attention
from rf_jax.errors import InputError
from rf_jax.models.config_v2 import ATTENTION, PE_TYPE, V2Config, joined_keys, split_keys
from rf_jax.models.swiglu import fused_swiglu
from rf_jax.schema import Count, Limit, Size

NormType = Literal["rms_norm", "layer_norm"]

Positive = Annotated[float, Limit("> 0", lambda x: x > 0)]

WINDOW_SIZE = 8
"""Side of the windows of the shifted-window self attention, in ray patches."""

_FIXED = {
    "dropout": 0.0,
    "norm_first": True,
    "rope_type": "triangle",
    "texture_channels": 13,
    "vdir_pe_type": "nerf",
}
"""Published keys of which this network supports one value: written, and checked when read."""

_NEUTRAL = {
    "decoding_method": "view_transformer",
    "register_token_pe": "weighted_mean",
}
"""Keys of later published versions, with the value that stands for what this network does. For any
unknown key `null` and `false` stand for that too."""

_IGNORED = {"custom_init", trained_on.KEY}
"""Keys that say how a network was trained, and not what it computes."""


@dataclasses.dataclass(frozen=True)
class RenderFormerConfig:
    """One network; the defaults are the published V1-Base.

    Field names are those of `config.json`, so that a file is read and written without a mapping.
    """

    latent_dim: Size = 768  # width of the view-independent stage
    num_layers: Size = 12
    num_heads: Size = 6
    dim_feedforward: Size = 3072
    num_register_tokens: Size = 16
    activation: Literal["swiglu", "gelu"] = "swiglu"
    norm_type: NormType = "rms_norm"
    view_indep_qk_norm: bool = True  # norm queries and keys in the view-independent stage
    qk_norm: bool = True  # the same in the view-dependent stage
    bias: bool = False  # in the linear layers of both transformers

    # How tokens learn where triangles are; "rope_only_center" is that of V2, and needs `v2`.
    pe_type: Literal["rope", "nerf", "rope_only_center"] = "rope"
    # Frequencies per coordinate with NeRF encoding, and twice that number with V1's RoPE.
    vertex_pe_num_freqs: Size = 12
    rope_double_max_freq: bool = False  # see `rf_jax.models.encodings.rope_frequencies`

    use_vn_encoder: bool = True  # whether triangle tokens know their vertex normals
    vn_pe_num_freqs: Count = 6  # frequencies that encode vertex normals
    vn_encoder_norm_type: Literal["rms_norm", "layer_norm", "none"] = "rms_norm"

    texture_encode_patch_size: Size = 32  # texels per side; 1: one value per triangle
    texture_encoder_norm_type: NormType = "rms_norm"

    view_transformer_latent_dim: Size = 768
    view_transformer_ffn_hidden_dim: Size = 3072
    view_transformer_n_heads: Size = 6
    view_transformer_n_layers: Size = 6
    view_transformer_include_self_attn: bool = True  # rays attend to rays
    view_transformer_use_swin_attn: bool = False  # ... in shifted 8x8 windows
    vdir_num_freqs: Count = 0  # frequencies that encode ray directions
    patch_size: Size = 8  # pixels per side of a ray patch
    turn_to_cam_coord: bool = True  # the view-dependent stage sees triangles in camera space

    use_dpt_decoder: bool = True  # otherwise one linear layer makes the pixels
    dpt_features: Size = 128
    dpt_out_channels: tuple[Size, ...] = (96, 192, 384, 768)
    dpt_out_layers: tuple[Count, ...] | None = None  # the layers it reads; None: the last four
    include_alpha: bool = False  # a fourth image channel
    use_ldr: bool = False  # plain radiance in and out instead of log10(1 + radiance)

    # Not in published files; written only where they differ from these defaults.
    view_independent_attention: str = "auto"  # a name of rf_jax.attention
    view_dependent_attention: str = "auto"
    # "fused": SwiGLU's gate and the products that meet in it are one kernel on Hopper GPUs
    feed_forward: Literal["auto", "fused"] = "auto"
    # Scenes are seen with their brightest emission of each colour at this radiance, and images are
    # scaled back: light adds up, so they are proportional to it. None: as published.
    reference_emission: Positive | None = None
    rotate_values: bool = False  # RoPE turns values too: with the keys, and back with the queries
    view_positions: Literal["camera", "projected"] = "camera"  # what the view stage's RoPE turns by
    view_frequencies: tuple[Positive, ...] | None = None  # of its RoPE; None: as published
    # The options of attention functions, where they differ from their defaults. In files and
    # configurations each option is a key of its own, NAME_OPTION.
    attention_options: tuple[Any, ...] = ()
    # What only RenderFormer V2 has; each of its fields is a key of its own too.
    v2: V2Config | None = None

    def __post_init__(self):
        for name, hint in _own_hints().items():
            schema.parse(hint, getattr(self, name), name)
        options = tuple(o for o in self.attention_options if o != type(o)())
        object.__setattr__(self, "attention_options", options)
        for name in (self.view_independent_attention, self.view_dependent_attention):
            get_attention(name)
        if get_attention(self.view_dependent_attention).self_only:
            raise InputError(
                f"view_dependent_attention: {self.view_dependent_attention} is for tokens that "
                "attend to themselves, in the view-independent stage; auto serves this one"
            )
        if self.feed_forward == "fused" and (self.activation != "swiglu" or self.bias):
            raise InputError('feed_forward: "fused" needs activation "swiglu" and bias = false')
        if self.reference_emission is not None and (self.use_ldr or self.v2 is not None):
            raise InputError(
                "reference_emission: needs a network of the first generation with use_ldr = false"
            )
        if (self.v2 is None) != (self.pe_type != PE_TYPE):
            raise InputError(f'pe_type: "{PE_TYPE}" and v2 need each other')
        self._check_heads("latent_dim", self.view_independent)
        self._check_heads("view_transformer_latent_dim", self.view_dependent)
        self._check_decoder()
        self._check_positions()

    @property
    def view_independent(self) -> "TransformerConfig":
        """The transformer of the view-independent stage."""
        return TransformerConfig(
            width=self.latent_dim,
            depth=self.num_layers,
            num_heads=self.num_heads,
            hidden_dim=self.dim_feedforward,
            activation=self.activation,
            norm_type=self.norm_type,
            qk_norm_type=self.norm_type if self.view_indep_qk_norm else "none",
            use_bias=self.bias,
            rope_dim=self._rope_dim,
            rotate_values=self.rotate_values,
            swiglu=fused_swiglu if self.feed_forward == "fused" else None,
            attention=get_attention(self.view_independent_attention, self.attention_options),
        )

    @property
    def view_dependent(self) -> "TransformerConfig":
        """The transformer of the view-dependent stage."""
        width, num_heads = self.view_transformer_latent_dim, self.view_transformer_n_heads
        most = width // num_heads // (2 * self.position_size) * 2
        return TransformerConfig(
            width=width,
            depth=self.view_transformer_n_layers,
            num_heads=num_heads,
            hidden_dim=self.view_transformer_ffn_hidden_dim,
            activation=self.activation,
            norm_type=self.norm_type,
            qk_norm_type=self.norm_type if self.qk_norm else "none",
            use_bias=self.bias,
            rope_dim=min(self._rope_dim, most),
            rotate_values=self.rotate_values,
            swiglu=fused_swiglu if self.feed_forward == "fused" else None,
            attention=get_attention(self.view_dependent_attention, self.attention_options),
        )

    @property
    def _rope_dim(self) -> int:
        if self.v2 is not None:
            return self.v2.intra_rope_pe_num_freqs
        return self.vertex_pe_num_freqs if self.pe_type == "rope" else 0

    @property
    def position_size(self) -> int:
        """Numbers by which RoPE turns a token: of three vertices, or in V2 of their centre."""
        return 9 if self.v2 is None else 3

    @property
    def encoder_norm_eps(self) -> float | None:
        """Epsilon of the norms of encoders; None for PyTorch's default."""
        return None if self.v2 is None else self.v2.encoder_norm_eps

    @property
    def windowed(self) -> bool:
        """Whether rays attend to the rays of their shifted window instead of to all."""
        return self.view_transformer_include_self_attn and self.view_transformer_use_swin_attn

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers of the view-dependent stage whose residual stream the decoder reads."""
        depth = self.view_transformer_n_layers
        if not self.use_dpt_decoder:
            return (depth - 1,)
        return self.dpt_out_layers or tuple(range(depth - 4, depth))

    @property
    def image_channels(self) -> int:
        """C of the images: RGB, and alpha if the network has it."""
        return 4 if self.include_alpha else 3

    @property
    def resolution_multiple(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch_size * (WINDOW_SIZE if self.windowed else 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RenderFormerConfig":
        """Reads the flat object of a published `config.json`, or `to_flat`'s.

        Unknown keys pass if they are off, or if their value is what this network does anyway.

        Raises:
          InputError: a key switches on something that this network does not compute, or a value has
            the wrong type or is out of range; the message names the key.
        """
        if not isinstance(values, dict):
            raise InputError(f"expected a flat JSON object, found {type(values).__name__}")
        v2, values = split_keys(values)
        own, hints = _own_hints(), cls.flat_hints()
        for key in values.keys() - hints.keys():
            _check_other_key(key, values[key], hints.keys())
        parsed = {k: schema.parse(hints[k], v, k) for k, v in values.items() if k in hints}
        options = [a.parse_options(parsed) for a in ATTENTIONS.values() if a.options is not None]
        parsed = {k: v for k, v in parsed.items() if k in own}
        return cls(**parsed, attention_options=tuple(options), v2=v2)

    def to_dict(self) -> dict[str, Any]:
        """The flat object for a `config.json`, as the published loaders read it."""
        values, ours = self.to_flat(), RenderFormerConfig().to_flat()
        ours = {k: v for k, v in ours.items() if k in _OURS or k not in _own_hints()}
        if self.v2 is not None:
            values = joined_keys(self.v2, values)
            ours["view_independent_attention"] = ATTENTION
        values = {k: v for k, v in values.items() if k not in ours or v != ours[k]}
        values |= _FIXED if self.v2 is None else {}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(values.items())}

    def to_flat(self) -> dict[str, Any]:
        """All fields and all options of attention functions, with one key each."""
        values = {name: getattr(self, name) for name in _own_hints()}
        for attention in ATTENTIONS.values():
            values |= attention.with_options(self.attention_options).option_values()
        return values if self.v2 is None else values | schema.to_dict(self.v2)

    @classmethod
    def flat_hints(cls) -> dict[str, Any]:
        """The types of the values of `to_flat`."""
        hints = dict(_own_hints())
        for attention in ATTENTIONS.values():
            hints |= attention.option_hints()
        return hints

    def _check_heads(self, name: str, stage: "TransformerConfig"):
        width, heads, rope_dim = stage.width, stage.num_heads, stage.rope_dim
        if width % heads or (width // heads) % 2:
            raise InputError(f"{name}: {width} does not split into {heads} heads of even width")
        head_dim = width // heads
        most = head_dim // self.position_size
        if self.pe_type != "nerf" and (rope_dim % 2 or rope_dim == 0 or rope_dim > most):
            key = "vertex_pe_num_freqs" if self.v2 is None else "intra_rope_pe_num_freqs"
            raise InputError(
                f"{key}: RoPE needs an even number from 2 to {most} for "
                f"heads of {head_dim} ({name} {width} / {heads} heads), found {rope_dim}"
            )

    def _check_positions(self):
        changed = [n for n in ("rotate_values", "view_frequencies") if getattr(self, n)]
        if self.view_positions == "projected":
            changed.append("view_positions")
            if not self.turn_to_cam_coord:
                raise InputError(
                    "view_positions: projected positions need turn_to_cam_coord = true"
                )
        if changed and self.pe_type != "rope":
            raise InputError(f'{changed[0]}: needs pe_type "rope", found "{self.pe_type}"')
        if not self.rotate_values and not self.view_independent.attention.rotates:
            raise InputError(
                f"rotate_values: must be true with {self.view_independent_attention}_rotated = "
                "false; otherwise tokens do not know where triangles are"
            )
        expected = self.view_dependent.rope_dim // 2
        if self.view_frequencies is not None and len(self.view_frequencies) != expected:
            raise InputError(
                f"view_frequencies: expected {expected}, as many as vertex_pe_num_freqs and the "
                f"width of the heads allow, found {len(self.view_frequencies)}"
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


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The transformer of one stage, as far as its layers need to know it.

    Attributes:
      width: D, the width of the tokens.
      depth: number of layers.
      num_heads: nh of each attention.
      hidden_dim: width inside the feed-forward networks.
      activation: "swiglu" or "gelu", in the feed-forward networks.
      norm_type: the norm before each part of a layer.
      qk_norm_type: the norm of queries and keys; "none" leaves them as they are.
      use_bias: whether the linear layers have biases.
      rope_dim: twice the number of RoPE frequencies per coordinate; 0 without RoPE.
      rotate_values: whether RoPE turns values with the keys, and results back with the queries.
      swiglu: the function (x, w1, w3, w2) of the feed-forward networks; None for XLA's products.
      attention: the attention function.
    """

    width: int
    depth: int
    num_heads: int
    hidden_dim: int
    activation: str
    norm_type: str
    qk_norm_type: str
    use_bias: bool
    rope_dim: int
    rotate_values: bool
    swiglu: Callable[..., Any] | None
    attention: Attention

    @property
    def head_dim(self) -> int:
        """hd, the width of a head."""
        return self.width // self.num_heads


_OURS = {
    "view_independent_attention",
    "view_dependent_attention",
    "feed_forward",
    "reference_emission",
    "rotate_values",
    "view_positions",
    "view_frequencies",
}
"""Fields that the published configuration lacks; the options of attention functions are others."""


@functools.cache
def _own_hints() -> dict[str, Any]:
    """The types of the fields that are keys of files: all but `attention_options` and `v2`."""
    hints = typing.get_type_hints(RenderFormerConfig, include_extras=True)
    del hints["attention_options"], hints["v2"]
    return hints


def _check_other_key(key: str, value: Any, names: Collection[str]):
    """Refuses a key that is not among `names`, unless the network computes what it asks for."""
    if key in _IGNORED:
        return
    if key in _FIXED:
        if value != _FIXED[key]:
            raise InputError(f"{key}: this network computes {_FIXED[key]!r} only, found {value!r}")
        return
    if value is None or value is False or value == _NEUTRAL.get(key, object()):
        return
    close = difflib.get_close_matches(key, [*names, *_FIXED], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"{key}: {value!r} switches on something this network does not compute{hint}")
