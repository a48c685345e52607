"""The network: the view-independent stage, the view-dependent stage and the DPT decoder."""

from rf_jax.models.config import RenderFormerConfig
from rf_jax.models.renderformer import RenderFormer, init_variables
from rf_jax.models.variants import VARIANTS

__all__ = ["VARIANTS", "RenderFormer", "RenderFormerConfig", "init_variables"]
