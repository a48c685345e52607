"""The programs of the renderer: the network's stages on the arrays of one or several devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rf_jax.models import RenderFormer
from rf_jax.models.dpt import permute_filters
from rf_jax.models.stacks import join_layers, split_layers
from rf_jax.radiance import linear_radiance
from rf_jax.rendering.sharding import (
    AXIS,
    BY_VIEW,
    constrain_encoding,
    encoding_specs,
    gather_for_positions,
    split_model,
)
from rf_jax.structs import SceneEncoding, SceneTokens


def cast_variables(variables: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Casts kernels, and the decoder's biases, to the compute type; all else to float32."""

    def cast(path, leaf):
        *modules, name = (key.key for key in path)
        half = name == "kernel" or (name == "bias" and "decoder" in modules)
        return leaf.astype(dtype if half else jnp.float32)

    return jax.tree_util.tree_map_with_path(cast, variables)


def for_platform(variables: dict[str, Any], platform: str) -> dict[str, Any]:
    """The variables as devices of that platform read them best, for `encode` and `render`.

    On GPUs they are split into layers, and the kernels of convolutions are [O, k, k, I], because
    cuDNN reads them so.
    """
    if platform != "gpu":
        return variables
    return permute_filters(split_layers(variables), (3, 0, 1, 2))


def _stacked(model, variables):
    """The network and its variables for `apply`, from those of `for_platform`.

    Variables that are split into layers have permuted kernels too.
    """
    stacked = join_layers(variables)
    if jax.tree.structure(stacked) == jax.tree.structure(variables):
        return model, variables
    return model.clone(unroll=True), permute_filters(stacked, (1, 2, 3, 0))


def encode(
    model: RenderFormer, variables: dict[str, Any], tokens: SceneTokens, *, mesh: Mesh
) -> SceneEncoding:
    """The encoding of scenes, which is split over the devices of a mesh of several.

    If the variables are those of `for_platform` for GPUs, keys and values are split into layers
    too, on a mesh of one device.
    """
    split = mesh.size > 1
    if split:
        model = split_model(model, mesh).clone(token_split=(mesh, P(None, AXIS)))
    model, stacked = _stacked(model, variables)
    encoding = model.apply(stacked, tokens, method=RenderFormer.encode_scene)
    if split:
        return constrain_encoding(encoding, mesh)
    if model.unroll and encoding.keys is not None:
        encoding = encoding.replace(keys=tuple(encoding.keys), values=tuple(encoding.values))
    return encoding


def render(
    model: RenderFormer,
    variables: dict[str, Any],
    encoding: SceneEncoding,
    camera_to_world: jax.Array,
    fov_degrees: jax.Array,
    *,
    resolution: int,
    mesh: Mesh,
    split: bool,
) -> jax.Array:
    """Images [B, V, H, W, C] of V views, of which each device of the mesh renders some.

    Args:
      model: the network.
      variables: its variables, on all devices.
      encoding: of B scenes, on all devices or split over them.
      camera_to_world, fov_degrees: [B, V, 4, 4] and [B, V], split over the devices.
      resolution: H and W.
      mesh: the devices.
      split: whether the encoding is split.
    """
    model = split_model(model, mesh) if split else model

    def render_some(variables, encoding, camera_to_world, fov_degrees):
        unrolled, stacked = _stacked(model, variables)
        if isinstance(encoding.keys, tuple):
            encoding = encoding.replace(
                keys=jnp.stack(encoding.keys), values=jnp.stack(encoding.values)
            )
        image, _ = unrolled.apply(
            stacked,
            gather_for_positions(encoding) if split else encoding,
            camera_to_world,
            fov_degrees,
            resolution,
            method=RenderFormer.render_view,
        )
        return image if model.config.use_ldr else linear_radiance(image)

    if mesh.size > 1:  # every device runs the program that one device runs on its own
        specs = P(), encoding_specs(encoding) if split else P(), BY_VIEW, BY_VIEW
        render_some = jax.shard_map(
            render_some, mesh=mesh, in_specs=specs, out_specs=BY_VIEW, check_vma=False
        )
    return render_some(variables, encoding, camera_to_world, fov_degrees)
