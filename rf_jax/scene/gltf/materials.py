"""From the materials of glTF to those of scenes: diffuse, specular, roughness, emission.

A scene's surface is the sum of a Lambert lobe and a GGX lobe of constant weight; the published data
have no Fresnel term. glTF's has one, and the lobe's weight becomes its mean over all directions, so
that a surface reflects as much light as in glTF. alpha is the square of roughness in both.
"""

import dataclasses

import numpy as np

from rf_jax.scene.gltf.primitives import Corners
from rf_jax.scene.gltf.schema import Material
from rf_jax.scene.gltf.textures import (
    FINEST,
    MOST_SAMPLES,
    SampledTexture,
    Textures,
    barycentric_grid,
    longest_edges,
    look_up,
)
from rf_jax.structs import (
    DIFFUSE,
    EMISSION,
    FLAT_NORMAL,
    NORMAL,
    NUM_CHANNELS,
    ROUGHNESS,
    SPECULAR,
    quantized,
)

_CHUNK = 2**20
"""Points on triangles that are looked up at once."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """A material with its textures opened; None for textures that it lacks.

    Attributes:
      material: the material.
      base_color: its base colour, or diffuse colour with specular-glossiness.
      gloss: metallic and roughness, or specular colour and glossiness.
      emissive: its emission.
    """

    material: Material
    base_color: SampledTexture | None
    gloss: SampledTexture | None
    emissive: SampledTexture | None

    @property
    def textures(self) -> list[SampledTexture]:
        """Those that there are."""
        found = (self.base_color, self.gloss, self.emissive)
        return [texture for texture in found if texture is not None]


def open_surface(material: Material, textures: Textures, where: str) -> Surface:
    """Opens the textures of a material.

    Raises:
      InputError: an image is missing, damaged or too large.
    """
    pbr = material.pbrMetallicRoughness
    older = material.extensions.KHR_materials_pbrSpecularGlossiness
    names = ("baseColorTexture", "metallicRoughnessTexture")
    if older is not None:
        pbr, names = older, ("diffuseTexture", "specularGlossinessTexture")
    color, gloss = (getattr(pbr, name) for name in names)
    return Surface(
        material,
        textures.sampled(color, True, f"{where}.{names[0]}"),
        textures.sampled(gloss, older is not None, f"{where}.{names[1]}"),
        textures.sampled(material.emissiveTexture, True, f"{where}.emissiveTexture"),
    )


def bake(surface: Surface, corners: Corners) -> np.ndarray:
    """The material values [F, 13] of triangles: means over each triangle, of linear values.

    Every triangle is divided into equal parts, about as small as the texels that it covers, and
    the material is computed in the middle of each part.
    """
    count = len(corners.positions)
    edges = np.ones(count)
    usable = [texture for texture in surface.textures if texture.uv_set in corners.uvs]
    for texture in usable:
        edges = np.maximum(edges, longest_edges(texture, corners.uvs[texture.uv_set]))
    parts = np.ones(count, np.int64)
    if usable:
        parts = 2 ** np.ceil(np.log2(np.clip(edges, FINEST, MOST_SAMPLES))).astype(np.int64)
    levels = np.ceil(np.log2(np.clip(edges / parts, 1, 2**16))).astype(np.int64)
    values = np.empty((count, NUM_CHANNELS))
    for number, level in sorted(set(zip(parts.tolist(), levels.tolist(), strict=True))):
        rows = np.flatnonzero((parts == number) & (levels == level))
        weights = barycentric_grid(number)
        step = max(1, _CHUNK // len(weights))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            values[chunk] = _values_at(surface, corners, chunk, weights, level).mean(axis=1)
    values[:, DIFFUSE] = quantized(values[:, DIFFUSE])
    return values


def _values_at(
    surface: Surface, corners: Corners, rows: np.ndarray, weights: np.ndarray, level: int
) -> np.ndarray:
    """The material values [F, K, 13] at K points of triangles, given by barycentric weights."""

    def texels(texture: SampledTexture | None) -> np.ndarray:
        if texture is None or texture.uv_set not in corners.uvs:
            return np.ones((1, 1, 4))
        return look_up(texture, weights @ corners.uvs[texture.uv_set][rows], level)

    material = surface.material
    base, gloss = texels(surface.base_color)[..., :3], texels(surface.gloss)
    if corners.colors is not None:
        base = base * (weights @ corners.colors[rows])
    strength = material.extensions.KHR_materials_emissive_strength.emissiveStrength
    emission = texels(surface.emissive)[..., :3] * material.emissiveFactor * strength
    older = material.extensions.KHR_materials_pbrSpecularGlossiness
    if older is not None:
        base = np.clip(base * older.diffuseFactor[:3], 0, 1)
        specular = _mean_fresnel(gloss[..., :3] * older.specularFactor, 1.0)
        diffuse = base * (1 - specular.max(axis=-1, keepdims=True))
        roughness = 1 - gloss[..., 3:] * older.glossinessFactor
    else:
        pbr = material.pbrMetallicRoughness
        base = np.clip(base * pbr.baseColorFactor[:3], 0, 1)
        diffuse, specular = reflectances(base, gloss[..., 2:3] * pbr.metallicFactor, material)
        roughness = gloss[..., 1:2] * pbr.roughnessFactor
    values = np.empty((len(rows), len(weights), NUM_CHANNELS))
    values[..., DIFFUSE], values[..., SPECULAR] = diffuse, specular
    values[..., ROUGHNESS] = roughness
    values[..., NORMAL], values[..., EMISSION] = FLAT_NORMAL, emission
    return values


def reflectances(
    base: np.ndarray, metallic: np.ndarray, material: Material
) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse and specular reflectance [..., 3] of glTF's metallic-roughness model.

    Their sum is at most 1. With Schlick's F0 and F90 (F0 = ((n - 1) / (n + 1))^2 = 0.04 for
    n = 1.5 of a dielectric, the base colour of a metal; KHR_materials_ior, KHR_materials_specular),
    the specular reflectance is the mean of Fresnel's term over the hemisphere, weighted by cosine:
    F0 + (F90 - F0) / 21. What a dielectric does not reflect there is diffuse.

    Args:
      base: [..., 3] base colour, linear, in [0, 1].
      metallic: [..., 1] in [0, 1].
      material: index of refraction and specular factors.
    """
    ior = material.extensions.KHR_materials_ior.ior
    specular = material.extensions.KHR_materials_specular
    # An index of 0 stands for one without end, for converted materials
    f0 = ((ior - 1) / (ior + 1)) ** 2 if ior else 1.0
    f0 = np.minimum(f0 * np.array(specular.specularColorFactor), 1) * specular.specularFactor
    dielectric = _mean_fresnel(f0, specular.specularFactor)
    diffuse = (1 - metallic) * base * (1 - dielectric.max())
    return diffuse, (1 - metallic) * dielectric + metallic * _mean_fresnel(base, 1.0)


def _mean_fresnel(f0: np.ndarray, f90: float) -> np.ndarray:
    return f0 + (f90 - f0) / 21
