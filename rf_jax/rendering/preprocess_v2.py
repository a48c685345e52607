"""From scenes of RenderFormer V2 to the network's input."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rf_jax.errors import InputError
from rf_jax.geometry import hilbert_order
from rf_jax.models import RenderFormerConfig
from rf_jax.models.config_v2 import VOLUME_INPUTS
from rf_jax.radiance import log_radiance
from rf_jax.rendering.preprocess import bucket_length
from rf_jax.structs import SceneTokensV2, SceneV2


def prepare_scenes_v2(scenes: Sequence[SceneV2], config: RenderFormerConfig) -> SceneTokensV2:
    """Orders the tokens of scenes, encodes their emission and pads them to common lengths.

    Lights keep their order. All other triangles and the cells of volumes follow a Hilbert curve
    through their own bounding box.

    Args:
      scenes: their arrays are not modified.
      config: the V2 network that will read them.

    Returns:
      Tokens of NumPy arrays.

    Raises:
      InputError: the network needs an environment or reads none, it reads no volumes, or latents
        or densities have other shapes than it reads.
    """
    for scene in scenes:
        _check_parts(scene, config)
    counts = np.array([len(scene.triangles) for scene in scenes], np.int32)
    cells = [0 if s.volumes is None else len(s.volumes.position) for s in scenes]
    padded = bucket_length(int(counts.max()))
    orders = [_token_order(scene, padded) for scene in scenes]
    lights, normal = ([order[i] for order in orders] for i in (0, 1))
    block = config.v2.summary_block_size
    most_normal = bucket_length(max(1, *map(len, normal)))
    triangles = {
        "triangles": [s.triangles for s in scenes],
        "vertex_normals": [s.vertex_normals for s in scenes],
        "emission": [log_radiance(np.asarray(s.emission, np.float32)) for s in scenes],
    }
    return SceneTokensV2(
        **{name: _stack(arrays, padded, np.float32) for name, arrays in triangles.items()},
        textures=_stack_textures([np.asarray(s.textures) for s in scenes]),
        texture_index=_stack([s.texture_index for s in scenes], padded, np.int32),
        environment=_stack_trees([s.environment for s in scenes]),
        volumes=_stack_cells([s.volumes for s in scenes], max(cells)),
        num_triangles=counts,
        lights=_stack(lights, _power_of_two(max(map(len, lights)), 16), np.int32),
        num_lights=np.array(list(map(len, lights)), np.int32),
        normal=_stack(normal, -(-most_normal // block) * block, np.int32),
        num_normal=np.array(list(map(len, normal)), np.int32),
    )


def _check_parts(scene: SceneV2, config: RenderFormerConfig) -> None:
    v2 = config.v2
    if v2.use_env_lighting and scene.environment is None:
        raise InputError("environment: this network needs one; a black map stands for none")
    if scene.environment is not None and not v2.use_env_lighting:
        raise InputError("environment: this network reads none; take another or leave it out")
    if scene.volumes is not None and not v2.use_volumes:
        raise InputError("volumes: this network reads none; take another or leave them out")
    if scene.volumes is not None and np.shape(scene.volumes.density)[1:] != (VOLUME_INPUTS,):
        raise InputError(
            f"volumes.density: expected [M, {VOLUME_INPUTS}] of RenderFormer V2, found "
            f"{list(np.shape(scene.volumes.density))}"
        )
    if scene.environment is not None:
        for name in ("latent_ldr", "latent_hdr"):
            shape, side = np.shape(getattr(scene.environment, name)), v2.envmap_latent_patch_size
            if (
                len(shape) != 3
                or shape[0] != v2.envmap_latent_channels
                or any(n == 0 or n % side for n in shape[1:])
            ):
                raise InputError(
                    f"environment.{name}: expected [{v2.envmap_latent_channels}, h, w] with "
                    f"multiples of {side} (this is a RenderFormer V2 network), found {list(shape)}"
                )
    shape = np.shape(scene.textures)
    if len(shape) != 4 or shape[1] != v2.texture_channels or shape[2] != shape[3]:
        raise InputError(
            f"textures: expected latents [K, {v2.texture_channels}, T, T] (this is a RenderFormer "
            f"V2 network), found {list(shape)}"
        )


def _token_order(scene: SceneV2, num_padded: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the lights and of the normal tokens; cells come after `num_padded` triangles.

    The curve is laid through float32 centres, summed vertex by vertex as the original does.
    """
    triangles = np.asarray(scene.triangles, np.float32)
    # What log10(1 + e) rounds to 0 emits nothing.
    is_light = (np.float32(1) + np.asarray(scene.emission, np.float32) > 1).any(1)
    others = np.flatnonzero(~is_light)
    v0, v1, v2 = triangles[others].swapaxes(0, 1)
    centers = (v0 + v1 + v2) / np.float32(3)
    if scene.volumes is not None:
        positions = np.asarray(scene.volumes.position, np.float32)
        others = np.concatenate([others, num_padded + np.arange(len(positions))])
        centers = np.concatenate([centers, positions])
    order = hilbert_order(centers) if len(centers) else slice(None)
    return np.flatnonzero(is_light), others[order]


def _stack(arrays: Sequence[Any], length: int, dtype: Any) -> np.ndarray:
    """Arrays [n, ...] of different n as one [B, length, ...], padded with zeros."""
    first = np.asarray(arrays[0])
    out = np.zeros((len(arrays), length, *first.shape[1:]), dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def _stack_textures(textures: list[np.ndarray]) -> np.ndarray:
    if len({array.shape[1:] for array in textures}) > 1:
        found = ", ".join(str(list(array.shape)) for array in textures)
        raise InputError(f"textures: expected latents of one size in a batch, found {found}")
    return _stack(textures, _power_of_two(max(map(len, textures)), 1), np.float32)


def _stack_cells(volumes: list[Any], most: int) -> Any:
    """Volumes with a batch axis; a scene without has no cell. None if all are without."""
    given = [cells for cells in volumes if cells is not None]
    if not given:
        return None
    empty = jax.tree.map(lambda x: np.asarray(x)[:0], given[0])
    filled = [empty if cells is None else cells for cells in volumes]
    length = _power_of_two(most, 16)
    return jax.tree.map(lambda *arrays: _stack(arrays, length, np.float32), *filled)


def _stack_trees(trees: list[Any]) -> Any:
    if trees[0] is None:
        return None
    return jax.tree.map(lambda *arrays: np.stack(arrays).astype(np.float32), *trees)


def _power_of_two(count: int, least: int) -> int:
    """The smallest power of two that is neither less than `count` nor less than `least`."""
    return max(least, 1 << max(count - 1, 0).bit_length())
