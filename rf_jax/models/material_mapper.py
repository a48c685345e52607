"""The networks that turn the parameters of a material into the numbers RenderFormer V2 knows."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.precision import matmul_precision
from rf_jax.schema import LayerCount, Size


@dataclasses.dataclass(frozen=True)
class MapperConfig:
    """Sizes of a mapper: `num_layers` linear layers, of which all but the last are hidden."""

    hidden_dim: Size = 128
    latent_dim: Size = 9
    num_layers: LayerCount = 3


PARAMETERS = {"diffspec_mapper": 7, "metallic_mapper": 5, "metallic_transmission_mapper": 7}
"""The published mappers by name, with the number of parameters that each reads:

- diffspec_mapper: diffuse RGB, specular RGB, roughness,
- metallic_mapper: base colour RGB, metallic, roughness,
- metallic_transmission_mapper: base colour RGB, metallic, roughness, index of refraction,
  transmission.
"""

CONFIGS = {
    "diffspec_mapper": MapperConfig(),
    "metallic_mapper": MapperConfig(),
    "metallic_transmission_mapper": MapperConfig(hidden_dim=256, num_layers=5),
}
"""The published sizes."""


class MaterialMapper(nn.Module):
    """Linear layers with ReLU between them and tanh behind the last, in float32."""

    config: MapperConfig

    @nn.compact
    def __call__(self, parameters: jax.Array) -> jax.Array:
        """Parameters of materials [K, p] -> [K, latent_dim] in (-1, 1)."""
        x, last = parameters, self.config.num_layers - 1
        for i in range(last + 1):
            features = self.config.latent_dim if i == last else self.config.hidden_dim
            x = nn.Dense(features, precision=matmul_precision(jnp.float32), name=f"layers_{i}")(x)
            x = jnp.tanh(x) if i == last else nn.relu(x)
        return x
