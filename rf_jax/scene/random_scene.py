"""Scenes of random triangles, where only their number matters."""

import numpy as np

from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.structs import EMISSION, NUM_CHANNELS, Environment, Scene, SceneV2


def random_scene(
    num_triangles: int, config: RenderFormerConfig = VARIANTS["v1_base"]
) -> Scene | SceneV2:
    """Small random triangles with constant materials in the unit cube, seen from outside.

    The scene is of the network's generation.
    """
    rng = np.random.default_rng(0)
    centers = rng.uniform(-0.5, 0.5, (num_triangles, 1, 3))
    triangles = centers + rng.normal(0, 0.02, (num_triangles, 3, 3))
    normals = rng.normal(size=(num_triangles, 3, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    texture = rng.uniform(0, 1, (num_triangles, NUM_CHANNELS))
    texture[:, EMISSION] = 0
    texture[0, EMISSION] = 3000
    camera = np.eye(4)
    camera[2, 3] = 1.75
    arrays = (x.astype(np.float32) for x in (triangles, normals, texture, camera[None]))
    triangles, normals, texture, cameras = arrays
    fov = np.array([45.0], np.float32)
    if config.v2 is None:
        return Scene(triangles, normals, texture, None, cameras, fov)
    v2, size = config.v2, config.texture_encode_patch_size
    side = v2.envmap_latent_patch_size
    latents = rng.normal(size=(2, v2.envmap_latent_channels, 4 * side, 8 * side))
    return SceneV2(
        triangles=triangles,
        vertex_normals=normals,
        textures=rng.normal(size=(1, v2.texture_channels, size, size)).astype(np.float32),
        texture_index=np.zeros(num_triangles, np.int32),
        emission=texture[:, EMISSION],
        environment=Environment(*latents.astype(np.float32), np.float32(1)),
        volumes=None,
        camera_to_world=cameras,
        fov_degrees=fov,
    )
