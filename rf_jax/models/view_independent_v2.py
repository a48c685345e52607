"""View-independent stage of RenderFormer V2: more kinds of tokens, and an order among them.

The sequence is [registers, environment, summaries, lights | normal tokens]. What stands before the
bar are sinks. Normal tokens are the triangles that do not emit and the cells of volumes, along a
Hilbert curve. A summary is the mean of a block of them before the first layer.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.attention import Sinks
from rf_jax.geometry import environment_directions
from rf_jax.models.config import RenderFormerConfig
from rf_jax.models.config_v2 import VOLUME_INPUTS
from rf_jax.models.encodings import nerf_encoding
from rf_jax.models.layers import linear, norm
from rf_jax.models.view_independent import ViewIndependentStage, scene_center
from rf_jax.structs import Environment, SceneTokensV2, VolumeCells

_normal_init = nn.initializers.normal(1.0)


class TokenSequence(NamedTuple):
    """The tokens of B scenes before the first layer, real ones first.

    Attributes:
      tokens: [B, S, D] float32.
      positions: [B, S, 3] float32, by which RoPE turns them.
      lengths: [B] int32, how many tokens are real.
      sinks: the first of these.
      ids: [B, S] int32, which entry of [N triangles, M cells] a token is; -1 for other tokens.
    """

    tokens: jax.Array
    positions: jax.Array
    lengths: jax.Array
    sinks: Sinks
    ids: jax.Array


class ViewIndependentStageV2(ViewIndependentStage):
    """Triangles, volumes and the environment -> tokens that know the light transport."""

    @nn.compact
    def __call__(self, scene: SceneTokensV2) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns tokens [B, S, D] in float32, positions [B, S, 3] and lengths [B]."""
        x = SceneEmbedding(self.config, self.dtype, name="embedding")(scene)
        self.sow("intermediates", "sequence", x)
        tokens = self._exchange_light(x.tokens, x.positions, x.lengths, x.sinks)
        return tokens, x.positions, x.lengths


class SceneEmbedding(nn.Module):
    """Makes the tokens of a scene and puts them in order."""

    config: RenderFormerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, scene: SceneTokensV2) -> TokenSequence:
        config = self.config
        batch, width = scene.triangles.shape[0], config.latent_dim
        v0, v1, v2 = (scene.triangles[:, :, i] for i in range(3))
        centers = (v0 + v1 + v2) / 3  # (B, N, 3)
        members, places = self._triangles(scene, centers), centers
        if scene.volumes is not None:
            cells = VolumeEncoder(width, self.dtype, name="volume_encoder")(scene.volumes)
            members = jnp.concatenate([members, cells], 1)  # (B, N + M, D)
            places = jnp.concatenate([centers, scene.volumes.position], 1)
        lights, light_places = _take(members, scene.lights), _take(places, scene.lights)
        normal, normal_places = _take(members, scene.normal), _take(places, scene.normal)
        summaries, summary_places = (self._means(x) for x in (normal, normal_places))
        summaries = summaries + self.param("summary_token", _normal_init, (1, 1, width))
        registers = (1, config.num_register_tokens, width)
        first = self.param("register_tokens", _normal_init, registers)
        first = jnp.broadcast_to(first, (batch, *first.shape[1:]))
        if scene.environment is not None:
            first = jnp.concatenate([first, self._environment(scene.environment)], 1)
        center = scene_center(scene.triangles, scene.num_triangles)[:, None]  # (B, 1, 3)
        center = jnp.broadcast_to(center, (*first.shape[:2], 3))
        every = jnp.full((batch,), first.shape[1], jnp.int32)
        num_summaries = scene.num_normal // config.v2.summary_block_size
        return _packed(
            (first, summaries, lights, normal),
            (center, summary_places, light_places, normal_places),
            (every, num_summaries, scene.num_lights, scene.num_normal),
            (None, None, scene.lights, scene.normal),
        )

    def _triangles(self, scene, centers):
        """Triangle tokens [B, N, D], of triangles with these centres."""
        config = self.config
        batch, count = scene.triangles.shape[:2]
        size, channels = config.texture_encode_patch_size, config.v2.texture_channels
        offsets = (scene.triangles - centers[:, :, None]).reshape(batch, count, 9)
        offsets = nerf_encoding(offsets, config.vertex_pe_num_freqs)
        normals = scene.vertex_normals.reshape(batch, count, 9)
        normals = nerf_encoding(normals, config.vn_pe_num_freqs)
        textures = resize_textures(scene.textures, size)
        textures = textures.reshape(*textures.shape[:2], channels * size**2)
        x = self.param("triangle_token", _normal_init, (1, 1, config.latent_dim))
        x = x + self._encode("position_encoder", offsets)
        x = x + self._encode("vertex_normal_encoder", normals)
        x = x + _take(self._encode("texture_encoder", textures), scene.texture_index)
        return x + self._encode("emission_encoder", scene.emission)

    def _environment(self, environment):
        """Tokens [B, E, D]: all patches of the one latent, then all of the other."""
        v2 = self.config.v2
        latents = jnp.stack([environment.latent_ldr, environment.latent_hdr], 1)
        height, width = (n // v2.envmap_latent_patch_size for n in latents.shape[-2:])
        side = v2.envmap_ray_dir_map_patch_size
        directions = environment_directions(height * side, width * side)  # (h, w, xyz)
        directions = cut_patches(directions.transpose(2, 0, 1)[None, None], side)
        directions = self._encode("direction_encoder", jnp.asarray(directions))
        patches = cut_patches(latents, v2.envmap_latent_patch_size)  # (B, 2, E / 2, inputs)
        strength = environment.strength[:, None, None]
        x = self._encode("environment_encoder", patches) + directions
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return x + self._encode("environment_strength_encoder", strength)

    def _encode(self, name, x):
        """norm(linear(x)), the form of all encoders."""
        config = self.config
        encoded = linear(config.latent_dim, self.dtype, name, use_bias=True)(x)
        return norm(config.norm_type, f"{name}_norm", config.encoder_norm_eps)(encoded)

    def _means(self, x):
        """Means of blocks of tokens: [B, n, C] -> [B, n / block, C]."""
        block = self.config.v2.summary_block_size
        return x.reshape(x.shape[0], -1, block, x.shape[-1]).mean(2)


class VolumeEncoder(nn.Module):
    """The sum of five small networks, one for each property of a cell but its position."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cells: VolumeCells) -> jax.Array:
        """Cells [B, M, ...] -> [B, M, D]."""
        x = self.param("token", _normal_init, (1, 1, self.features))
        for name in ("density", "rotation", "scale", "scattering", "absorption"):
            hidden = self.features if name == "density" else self.features // 4
            y = linear(hidden, self.dtype, f"{name}_in", use_bias=True)(getattr(cells, name))
            y = nn.gelu(y, approximate=False)
            x = x + linear(self.features, self.dtype, f"{name}_out", use_bias=True)(y)
        return x


def resize_textures(textures: jax.Array, size: int) -> jax.Array:
    """Patches [..., T, T] -> [..., size, size]: means of texels, or bilinear if T is smaller."""
    if textures.shape[-1] == size:
        return textures
    matrix = _resize_matrix(textures.shape[-1], size)
    product = dict(precision=jax.lax.Precision.HIGHEST)
    textures = textures.astype(jnp.promote_types(textures.dtype, jnp.float32))
    return jnp.einsum("ih,...hw,jw->...ij", matrix, textures, matrix, **product)


def _resize_matrix(old: int, new: int) -> np.ndarray:
    """The weights [new, old] of old samples in new ones.

    Where there are fewer new samples, each is the mean of those that it covers in part or whole.
    Otherwise samples are interpolated linearly, and pixels are areas: half a pixel lies beyond the
    outermost samples, where these are continued.
    """
    matrix = np.zeros((new, old), np.float32)
    for i in range(new):
        if new < old:
            low, high = i * old // new, -(-(i + 1) * old // new)
            matrix[i, low:high] = 1 / (high - low)
        else:
            source = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(source), max(old - 2, 0))
            matrix[i, low] += 1 - (source - low)
            matrix[i, min(low + 1, old - 1)] += source - low
    return matrix


def cut_patches(images, side: int):
    """Images [..., C, H, W] -> [..., patches, C side side], row by row."""
    *lead, channels, height, width = images.shape
    images = images.reshape(-1, channels, height // side, side, width // side, side)
    images = images.transpose(0, 2, 4, 1, 3, 5)
    return images.reshape(*lead, -1, channels * side**2)


def _take(x, index):
    """Rows of x [B, n, C] by index [B, m] -> [B, m, C]."""
    return jax.vmap(lambda rows, chosen: rows[chosen])(x, index)


def _packed(tokens, places, counts, ids) -> TokenSequence:
    """Joins groups of tokens [B, n, D] of which counts [B] are real, and moves those to the front.

    All groups but the last are sinks, and summaries are among them.
    """
    valid = [jnp.arange(x.shape[1]) < n[:, None] for x, n in zip(tokens, counts, strict=True)]
    nothing = [jnp.full(v.shape, -1, jnp.int32) for v in valid]
    ids = [none if chosen is None else chosen for none, chosen in zip(nothing, ids, strict=True)]
    order = jnp.argsort(~jnp.concatenate(valid, 1), axis=1, stable=True)
    most = sum(x.shape[1] for x in tokens[:-1])
    joined = (jnp.concatenate(group, 1) for group in (tokens, places))
    x, positions = (_take(group, order) for group in joined)
    ids = jnp.take_along_axis(jnp.concatenate(ids, 1), order, 1)
    return TokenSequence(x, positions, sum(counts), Sinks(sum(counts[:-1]), most, True), ids)


def smallest_scene(config: RenderFormerConfig) -> SceneTokensV2:
    """A scene of one triangle, with every part that the network reads; only its shapes count."""
    v2 = config.v2
    latent = jnp.zeros((1, v2.envmap_latent_channels, *(v2.envmap_latent_patch_size,) * 2))
    inputs = {"density": VOLUME_INPUTS}
    fields = ("density", "position", "rotation", "scale", "scattering", "absorption")
    cells = VolumeCells(*(jnp.zeros((1, 1, inputs.get(name, 3))) for name in fields))
    one = jnp.ones((1,), jnp.int32)
    return SceneTokensV2(
        triangles=jnp.zeros((1, 1, 3, 3)),
        vertex_normals=jnp.zeros((1, 1, 3, 3)),
        textures=jnp.zeros((1, 1, v2.texture_channels, *(config.texture_encode_patch_size,) * 2)),
        texture_index=jnp.zeros((1, 1), jnp.int32),
        emission=jnp.zeros((1, 1, 3)),
        environment=Environment(latent, latent, jnp.zeros(1)) if v2.use_env_lighting else None,
        volumes=cells if v2.use_volumes else None,
        num_triangles=one,
        lights=jnp.zeros((1, 1), jnp.int32),
        num_lights=one,
        normal=jnp.zeros((1, v2.summary_block_size), jnp.int32),
        num_normal=one,
    )
