"""Materials and environment maps as the latents that RenderFormer V2 reads."""

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.models.material_mapper import PARAMETERS
from rf_jax.models.vae_encoder import NAME as VAE
from rf_jax.scene.description_v2 import SurfaceMaterial
from rf_jax.scene.environment_map import SHAPE, environment_images
from rf_jax.structs import Environment

IMAGE_SIZE = 32
"""Side in pixels of the images of a material that are encoded."""

_FLAT_NORMAL, _NO_HEIGHT = (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
"""The normal and the height of a surface without such maps, as the colours of encoded images."""

_BATCH = 16
"""Images that are encoded at once; the last batch is filled up, so that one program serves all."""


class Network(Protocol):
    """A network with its variables."""

    module: nn.Module
    variables: dict[str, Any]


class LatentEncoders:
    """Encodes materials and environment maps, each distinct one once."""

    def __init__(self, networks: Mapping[str, Network], store: Path | None = None):
        """Puts the networks on the default device, in float32.

        Args:
          networks: what `rf_jax.weights.latent_encoders.load_latent_encoders` returned.
          store: a folder that keeps the latents of environment maps, which take long on CPUs, for
            later runs; None for none.
        """
        self._apply = {name: _compiled(network) for name, network in networks.items()}
        self._codes: dict[SurfaceMaterial, list[float]] = {}
        self._colors: dict[tuple[float, ...], np.ndarray] = {}
        self._images: dict[str, np.ndarray] = {}
        self._store = store
        self._digest = _digest(*jax.tree.leaves(networks[VAE].variables))

    def textures(self, materials: Sequence[SurfaceMaterial]) -> np.ndarray:
        """The latents of constant materials.

        A material is a constant image of 9 numbers from its mapper, a normal and a height. Images
        of three channels each are encoded. The latent of a constant image varies, because the
        encoder sees zeros beyond the border.

        Args:
          materials: K materials.

        Returns:
          [K, 80, 4, 4] float16, the type of published files. C = 80 are 16 channels for each of 5
          images.
        """
        self._map(dict.fromkeys(materials))
        colors = [_colors(self._codes[material]) for material in materials]
        self._encode_colors(dict.fromkeys(color for row in colors for color in row))
        latents = [np.concatenate([self._colors[color] for color in row]) for row in colors]
        return np.stack(latents).astype(np.float16)

    def environment(self, radiance: np.ndarray | None) -> Environment:
        """The latents of an environment map [256, 512, 3] of radiance; None stands for black."""
        if radiance is None:
            radiance = np.zeros((*SHAPE, 3), np.float32)
        images = environment_images(radiance)
        return Environment(
            latent_ldr=self._encode_image(images.ldr),
            latent_hdr=self._encode_image(images.hdr),
            strength=np.float32(images.strength),
        )

    def _map(self, materials: Mapping[SurfaceMaterial, None]) -> None:
        """Finds the 9 numbers of materials that have not been mapped yet."""
        for name in PARAMETERS:
            new = [m for m in materials if m.mapper == name and m not in self._codes]
            if new:
                parameters = np.array([material.parameters for material in new], np.float32)
                codes = np.asarray(self._apply[name](parameters)).tolist()
                self._codes.update(zip(new, codes, strict=True))

    def _encode_colors(self, colors: Mapping[tuple[float, ...], None]) -> None:
        """Encodes constant images of colours that have not been encoded yet."""
        new = [color for color in colors if color not in self._colors]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            values = np.zeros((_BATCH, 1, 1, 3), np.float32)
            values[: len(batch), 0, 0] = batch
            images = np.broadcast_to(values, (_BATCH, IMAGE_SIZE, IMAGE_SIZE, 3))
            latents = np.asarray(self._apply[VAE](images))
            self._colors.update(zip(batch, np.moveaxis(latents, -1, 1), strict=False))

    def _encode_image(self, image: np.ndarray) -> np.ndarray:
        """The latent [16, H / 8, W / 8] of one image [H, W, 3]."""
        key = _digest(self._digest, image)
        if key not in self._images:
            path = self._store and self._store / f"{key}.npz"
            latent = None if path is None else _stored_latent(path)
            if latent is None:
                latent = np.moveaxis(np.asarray(self._apply[VAE](image[None]))[0], -1, 0)
                if path is not None:
                    _store_latent(path, latent)
            self._images[key] = latent
        return self._images[key]


def _digest(*parts: np.ndarray | str) -> str:
    """A name for an image or a network that no other one has."""
    result = hashlib.sha256()
    for part in parts:
        result.update(part.encode() if isinstance(part, str) else np.asarray(part).tobytes())
    return result.hexdigest()[:32]


def _stored_latent(path: Path) -> np.ndarray | None:
    """The latent in a file; None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["latent"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def _store_latent(path: Path, latent: np.ndarray) -> None:
    """Writes a latent, or nothing where nothing can be written."""
    with contextlib.suppress(InputError), atomic_path(path) as temporary:
        np.savez(temporary, latent=latent)


def _colors(code: Sequence[float]) -> list[tuple[float, ...]]:
    """The colours of the five constant images of a material with these 9 numbers."""
    return [*(tuple(code[i : i + 3]) for i in range(0, 9, 3)), _FLAT_NORMAL, _NO_HEIGHT]


def _compiled(network: Network) -> Callable[[np.ndarray], jax.Array]:
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), network.variables)
    apply = jax.jit(network.module.apply)
    return lambda x: apply(variables, x)
