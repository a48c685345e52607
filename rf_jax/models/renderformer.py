"""RenderFormer: both stages behind `encode_scene` (per scene) and `render_view` (per camera)."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.attention import Attention
from rf_jax.geometry import (
    crop_images,
    generate_rays,
    project_points,
    world_to_camera_points,
)
from rf_jax.models.config import RenderFormerConfig
from rf_jax.models.light_scale import normalize_light, scale_light
from rf_jax.models.swiglu import Split
from rf_jax.models.view_dependent import ViewDependentStage, patch_centers
from rf_jax.models.view_independent import ViewIndependentStage, token_positions
from rf_jax.models.view_independent_v2 import ViewIndependentStageV2, smallest_scene
from rf_jax.structs import SceneEncoding, SceneTokens, SceneTokensV2


class RenderFormer(nn.Module):
    """The whole network.

    Attributes:
      config: which network.
      dtype: compute type of matrix products: float32 (at full precision), bfloat16 or float16.
      view_independent_attention, view_dependent_attention: the attention functions of the stages;
        None takes the one that the configuration names.
      token_split: how tokens are split over devices, which a fused feed-forward network must know;
        None if they are not, or if each device runs the network by itself.
      remat: whether the gradient computes each layer again instead of storing what is inside it.
      unroll: whether loops over layers are unrolled; see `rf_jax.models.stacks`. Not with `remat`,
        which takes the least memory in a loop.
    """

    config: RenderFormerConfig
    dtype: jnp.dtype = jnp.float32
    view_independent_attention: Attention | None = None
    view_dependent_attention: Attention | None = None
    token_split: Split | None = None
    remat: bool = False
    unroll: bool = False

    def setup(self):
        config = self.config
        first = self._on_devices(config.view_independent, self.view_independent_attention)
        second = self._on_devices(config.view_dependent, self.view_dependent_attention)
        how = self.dtype, self.remat, self.unroll and not self.remat
        stage = ViewIndependentStage if config.v2 is None else ViewIndependentStageV2
        self.view_independent = stage(config, first, *how)
        self.view_dependent = ViewDependentStage(config, second, *how)

    def _on_devices(self, transformer, attention):
        """A stage's transformer with its functions for the devices."""
        attention, swiglu = attention or transformer.attention, transformer.swiglu
        if swiglu is not None:
            swiglu = functools.partial(swiglu, split=self.token_split)
        return dataclasses.replace(transformer, attention=attention, swiglu=swiglu)

    def encode_scene(self, scene: SceneTokens | SceneTokensV2) -> SceneEncoding:
        """Runs all that depends on the scene only.

        That is the view-independent stage, where triangles exchange light, and with RoPE the keys
        and values that the view-dependent stage makes of its result. V2 networks rotate the keys
        here too, because their view-dependent stage works in world space.
        """
        if self.config.v2 is not None:
            tokens, positions, lengths = self.view_independent(scene)
            keys, values = self.view_dependent.project_context(tokens, positions)
            return SceneEncoding(tokens, keys, values, None, lengths)
        texture, light_scale = scene.texture, None
        if self.config.reference_emission is not None:
            texture, light_scale = normalize_light(texture, self.config.reference_emission)
        positions = self._positions(scene.triangles, scene.num_triangles)
        batch, padded = scene.triangles.shape[:2]
        tokens = self.view_independent(
            positions,
            scene.vertex_normals.reshape(batch, padded, 9),
            texture,
            scene.num_triangles,
        )
        keys = values = None
        if self.config.pe_type == "rope":
            keys, values = self.view_dependent.project_context(tokens)
        num_tokens = scene.num_triangles + self.config.num_register_tokens
        return SceneEncoding(tokens, keys, values, scene.triangles, num_tokens, light_scale)

    def render_view(
        self,
        encoding: SceneEncoding,
        camera_to_world: jax.Array,
        fov_degrees: jax.Array,
        resolution: int,
        crop: tuple[jax.Array, int] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Renders views of encoded scenes.

        Args:
          encoding: B scenes.
          camera_to_world: [B, V, 4, 4] rigid motions, OpenGL axes.
          fov_degrees: [B, V] full field of view.
          resolution: image side in pixels, a multiple of `config.resolution_multiple`.
          crop: a square part to render instead of whole views: its first row and column [B, V, 2]
            int32, and its side, a multiple of `config.resolution_multiple`.

        Returns:
          image: [B, V, H, H, C] float32, log10(1 + radiance) unless the network is LDR; H is the
            resolution or the side of the crop.
          taps: [taps, B V, P, D], what the decoder read.
        """
        batch, views = fov_degrees.shape
        rotation, origin = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
        if self.config.turn_to_cam_coord:
            rotation = jnp.broadcast_to(jnp.eye(3), rotation.shape)
            origin = None
        else:
            origin = origin.reshape(-1, 3)
        rays = generate_rays(rotation, fov_degrees, resolution)
        if crop is not None:
            rays = crop_images(rays, *crop)
        positions = self._positions_in_views(encoding, camera_to_world)
        keys, values = self._context(encoding, positions, views)
        rays, fov = rays.reshape(-1, *rays.shape[2:]), fov_degrees.reshape(-1)
        ray_positions = None if origin is None else origin[:, None]
        if self.config.view_positions == "projected":
            vertices = positions.reshape(*positions.shape[:2], 3, 3)
            positions = project_points(vertices, fov[:, None, None]).reshape(positions.shape)
            ray_positions = patch_centers(rays, fov, self.config.patch_size)
        image, taps = self.view_dependent(
            keys,
            values,
            positions,
            rays,
            ray_positions,
            jnp.repeat(encoding.num_tokens, views),
        )
        image = image.reshape(batch, views, *image.shape[1:])
        if encoding.light_scale is not None:
            image = scale_light(image, encoding.light_scale)
        return image, taps

    def __call__(self, scene, camera_to_world, fov_degrees, resolution: int) -> jax.Array:
        """Runs both stages on B scenes; cameras and images are those of `render_view`."""
        encoding = self.encode_scene(scene)
        return self.render_view(encoding, camera_to_world, fov_degrees, resolution)[0]

    def _positions(self, triangles, num_triangles):
        """Positions [B, R + N, 9] of all tokens, from triangles [B, N, 3, 3]."""
        return token_positions(triangles, num_triangles, self.config.num_register_tokens)

    def _positions_in_views(self, encoding, camera_to_world):
        """Positions [B V, S, 9] of all tokens in the frames of the views' rays.

        None if the keys are rotated already.
        """
        if encoding.triangles is None:
            return None
        batch, views = camera_to_world.shape[:2]
        triangles = jnp.broadcast_to(
            encoding.triangles[:, None], (batch, views, *encoding.triangles.shape[1:])
        )
        if self.config.turn_to_cam_coord:
            triangles = world_to_camera_points(triangles, camera_to_world[:, :, None, None])
        num_triangles = encoding.num_tokens - self.config.num_register_tokens
        return self._positions(
            triangles.reshape(-1, *triangles.shape[2:]), jnp.repeat(num_triangles, views)
        )

    def _context(self, encoding, positions, views):
        """Keys and values [L, B, S, nh, hd], with B V rows if they depend on the view."""
        if encoding.keys is not None:
            return encoding.keys, encoding.values
        tokens = jnp.repeat(encoding.tokens, views, 0)
        return self.view_dependent.project_context(
            tokens + self.view_dependent.encode_positions(positions)
        )


def init_variables(config: RenderFormerConfig, rng: jax.Array) -> dict[str, Any]:
    """Fresh variables ("params" and "constants") of a network, drawn as the published code does."""
    if config.v2 is None:
        scene = SceneTokens(
            triangles=jnp.zeros((1, 1, 3, 3)),
            vertex_normals=jnp.zeros((1, 1, 3, 3)),
            texture=jnp.zeros((1, 1, 13)),
            num_triangles=jnp.ones((1,), jnp.int32),
        )
    else:
        scene = smallest_scene(config)
    camera_to_world, fov_degrees = jnp.eye(4)[None, None], jnp.full((1, 1), 45.0)
    side = config.resolution_multiple
    return RenderFormer(config).init(rng, scene, camera_to_world, fov_degrees, side)
