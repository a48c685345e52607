"""Where the tensors are that only RenderFormer V2 has: those of its tokens."""

from collections.abc import Iterator

from rf_jax.models import RenderFormerConfig
from rf_jax.weights.rules import SAME, Rule, linear_rules, norm_rules

_ENCODERS = {
    "position_encoder": ("intra_tri_pos_emb_proj", "intra_tri_pos_emb_norm"),
    "vertex_normal_encoder": ("vn_encoding_proj", "vn_encoder_norm"),
    "texture_encoder": ("texture_encoder", "texture_encoder_norm"),
    "emission_encoder": ("light_strength_encoder", "light_strength_encoder_norm"),
}
_ENVIRONMENT_ENCODERS = {
    "environment_encoder": ("env_proj", "env_proj_norm"),
    "direction_encoder": ("ray_dir_proj", "ray_dir_norm"),
    "environment_strength_encoder": (
        "env_light_strength_encoder",
        "env_light_strength_encoder_norm",
    ),
}
_CELL_PROPERTIES = ("density", "rotation", "scale", "scattering", "absorption")


def embedding_rules_v2(config: RenderFormerConfig, flax: str) -> Iterator[Rule]:
    """The rules for the variables of `SceneEmbedding`, which are at path `flax`."""
    yield Rule("tri_token", f"{flax}/triangle_token", None, SAME)
    yield Rule("reg_tokens", f"{flax}/register_tokens", None, SAME)
    yield Rule("transformer.summary_token_embed", f"{flax}/summary_token", None, SAME)
    encoders = _ENCODERS | (_ENVIRONMENT_ENCODERS if config.v2.use_env_lighting else {})
    for name, (linear, norm) in encoders.items():
        yield from linear_rules(linear, f"{flax}/{name}", True)
        yield from norm_rules(norm, f"{flax}/{name}_norm", config.norm_type)
    if config.v2.use_volumes:
        yield Rule("volume_encoder.vol_token", f"{flax}/volume_encoder/token", None, SAME)
        for name in _CELL_PROPERTIES:
            torch, cells = f"volume_encoder.{name}_encoder", f"{flax}/volume_encoder/{name}"
            yield from linear_rules(f"{torch}.0", f"{cells}_in", True)
            yield from linear_rules(f"{torch}.2", f"{cells}_out", True)
