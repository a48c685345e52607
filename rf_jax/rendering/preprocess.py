"""From a scene in physical units to the network's input."""

import numpy as np

from rf_jax.errors import InputError
from rf_jax.models import RenderFormerConfig
from rf_jax.radiance import log_radiance
from rf_jax.rendering.token_order import sorts_triangles, token_order
from rf_jax.scene import validate_scene
from rf_jax.structs import EMISSION, Scene, SceneTokens, constant_texture

BUCKETS_PER_OCTAVE = 16
"""Padded lengths between one power of two and the next."""

BUCKET_MULTIPLE = 64
"""Every padded length is a multiple of this."""

LARGEST_BUCKET_STEP = 4096
"""Largest difference of padded lengths. Where attention takes seconds, compiling another program
costs less than padding."""


def bucket_length(length: int) -> int:
    """The padded sequence length: 16 lengths per octave, so that few programs serve all scenes.

    Beyond 1,024 tokens padding adds 2% on average and less than 1/16 always, and beyond 131,072
    tokens less still.
    """
    step = 2 ** (length.bit_length() - 1) // BUCKETS_PER_OCTAVE
    step = min(max(step, BUCKET_MULTIPLE), LARGEST_BUCKET_STEP)
    return -(-length // step) * step


def batched(scene: Scene) -> Scene:
    """The scene with NumPy arrays, a leading batch axis and a mask."""
    arrays = {name: np.asarray(getattr(scene, name)) for name in _FIELDS}
    if arrays["triangles"].ndim == 3:
        arrays = {name: array[None] for name, array in arrays.items()}
    mask = scene.valid_mask
    shape = arrays["triangles"].shape[:2]
    mask = np.ones(shape, bool) if mask is None else np.asarray(mask).reshape(shape)
    objects = None if scene.objects is None else np.asarray(scene.objects).reshape(shape)
    return scene.replace(**arrays, valid_mask=mask, objects=objects)


def prepare_scene(
    scene: Scene, config: RenderFormerConfig, num_padded: int | None = None
) -> SceneTokens:
    """Validates, compacts, pads and encodes a scene; its arrays are not modified.

    Valid triangles are moved to the front, so that their number replaces the mask. They keep their
    order, or follow a Hilbert curve if an attention function of the network wants neighbours close
    to each other; lights come first if it treats them apart. Texture patches that hold a single
    value become that value. Emission e becomes
    log10(1 + e) unless the network is LDR.

    Args:
      scene: batched or not.
      config: the network that will read it.
      num_padded: N, at least the number of valid triangles; None chooses the smallest N for which
        R + N is a `bucket_length`.

    Returns:
      Tokens of NumPy arrays.

    Raises:
      InputError: a bad field, or patches of a size that the network does not read.
    """
    validate_scene(scene)
    scene = batched(scene)
    mask = scene.valid_mask
    counts = mask.sum(axis=1)
    registers = config.num_register_tokens
    padded = num_padded or bucket_length(int(counts.max()) + registers) - registers
    places = np.arange(padded) < counts[:, None]
    order = _order(scene, counts, config) if sorts_triangles(config) else slice(None)

    def pad(valid):
        out = np.zeros((*places.shape, *valid.shape[1:]), np.float32)
        out[places] = valid
        return out

    return SceneTokens(
        triangles=pad(scene.triangles[mask][order]),
        vertex_normals=pad(scene.vertex_normals[mask][order]),
        texture=pad(_encoded_texture(scene.texture[mask], config)[order]),
        num_triangles=counts.astype(np.int32),
    )


_FIELDS = ("triangles", "vertex_normals", "texture", "camera_to_world", "fov_degrees")


def _order(scene: Scene, counts: np.ndarray, config: RenderFormerConfig) -> np.ndarray:
    """Indices [M] that order the valid triangles of a batch within each scene."""
    mask = scene.valid_mask
    triangles, everything = scene.triangles[mask], np.arange(counts.sum())
    emission = np.asarray(scene.texture[:, :, EMISSION][mask], np.float32)
    scenes = (slice(end - count, end) for end, count in zip(np.cumsum(counts), counts, strict=True))
    return np.concatenate(
        [everything[s][token_order(triangles[s], emission[s], config)] for s in scenes]
    )


def _encoded_texture(texture: np.ndarray, config: RenderFormerConfig) -> np.ndarray:
    """A float32 copy with encoded emission: [M, 13] if patches are constant, else [M, 13, T, T]."""
    size = config.texture_encode_patch_size
    if texture.ndim == 4:
        value = texture[..., 0, 0] if size == 1 else constant_texture(texture)
        if value is not None:
            texture = value
        elif texture.shape[-1] != size:
            raise InputError(
                f"texture: expected patches of {size}x{size} texels (the network reads those), "
                f"found {texture.shape[-1]}x{texture.shape[-1]}"
            )
    texture = np.array(texture, np.float32)
    if not config.use_ldr:
        texture[:, EMISSION] = log_radiance(texture[:, EMISSION])
    return texture
