"""What a network of either generation of RenderFormer reads: scenes, and its input.

A network of V2 has a `config.v2`. It takes the scenes of V1 too, whose materials are encoded.
"""

from pathlib import Path

import numpy as np

from rf_jax.errors import InputError
from rf_jax.models import RenderFormerConfig
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.preprocess_v2 import prepare_scenes_v2
from rf_jax.scene import load_scene, save_h5, scene_file, validate_scene
from rf_jax.scene.h5_v2 import require_encoders, save_h5_v2
from rf_jax.scene.latents import LatentEncoders
from rf_jax.scene.load_v2 import load_scene_v2, scene_to_v2
from rf_jax.scene.validate_v2 import validate_scene_v2
from rf_jax.structs import Scene, SceneTokens, SceneTokensV2, SceneV2
from rf_jax.weights.latent_encoders import load_latent_encoders

AnyScene = Scene | SceneV2


def load_encoders(folder: str | Path | None, config: RenderFormerConfig) -> LatentEncoders | None:
    """The networks that prepare scenes for a network; None for no folder.

    Raises:
      InputError: the folder holds none, or the network is of V1.
    """
    if folder is None:
        return None
    if config.v2 is None:
        raise InputError(
            "--latent_encoders: these weights are of RenderFormer V1, which reads materials as "
            "they are; leave it out, or give weights of V2"
        )
    return LatentEncoders(load_latent_encoders(folder), Path(folder) / "environments")


def require_v1(config: RenderFormerConfig, checkpoint: str | Path) -> None:
    """Refuses weights of V2, for what knows scenes of V1 only.

    Raises:
      InputError: the network is of V2.
    """
    if config.v2 is not None:
        raise InputError(
            f"{checkpoint}: expected weights of RenderFormer V1, whose scenes this reads, found V2"
        )


def load_for(
    config: RenderFormerConfig, path: str | Path, encoders: LatentEncoders | None
) -> AnyScene:
    """Loads a scene, a file or a bundled one, for a network.

    Raises:
      InputError: as `rf_jax.scene.load_scene` or `rf_jax.scene.load_v2.load_scene_v2`.
    """
    return load_scene(path) if config.v2 is None else load_scene_v2(scene_file(path), encoders)


def network_input(
    scene: AnyScene, config: RenderFormerConfig, encoders: LatentEncoders | None
) -> SceneTokens | SceneTokensV2:
    """The input of a network for a scene, which may be a batch for V1 only.

    Raises:
      InputError: a bad scene, or one that the network does not read.
    """
    if config.v2 is None:
        if isinstance(scene, SceneV2):
            raise InputError(
                "scene: found a scene of RenderFormer V2, which these weights of V1 do not read; "
                "give weights of V2, or a scene of V1"
            )
        return prepare_scene(scene, config)
    if isinstance(scene, Scene):
        validate_scene(scene)
        if np.ndim(scene.triangles) != 3:
            raise InputError(
                "scene: weights of RenderFormer V2 render scenes one by one, found a batch; give "
                "a list"
            )
        scene = scene_to_v2(scene, require_encoders(encoders, "materials"))
    validate_scene_v2(scene)
    if config.v2.use_env_lighting and scene.environment is None:
        encoders = require_encoders(encoders, "environment")
        scene = scene.replace(environment=encoders.environment(None))
    return prepare_scenes_v2([scene], config)


def save_scene(scene: AnyScene, path: Path) -> None:
    """Writes a scene as an HDF5 file of its generation.

    Raises:
      InputError: the scene does not fit, or the file cannot be written.
    """
    (save_h5_v2 if isinstance(scene, SceneV2) else save_h5)(scene, path)
