"""The parts of a glTF 2.0 document that are read, as typed dataclasses.

Fields have the names of the specification. Keys that are not read are passed over, because files
may hold anything there; what is read has its type checked. The defaults are the specification's.
"""

import dataclasses
import functools
import math
from typing import Annotated, Any, get_type_hints

from rf_jax import schema
from rf_jax.errors import InputError
from rf_jax.schema import Fraction, Limit, NonNegative, NonNegativeInt, Positive

Vector = tuple[float, float, float]
Color = tuple[NonNegative, NonNegative, NonNegative]
Matrix = tuple[(float,) * 16]
YFov = Annotated[float, Limit("in (0, pi)", lambda x: 0 < x < math.pi)]


class _Part:
    """An object of a glTF document; `rf_jax.schema.parse` calls `from_dict`."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Any:
        given = {}
        for key, (hint, required) in _fields(cls).items():
            if key in value and value[key] != []:  # some exporters write empty lists
                given[key] = schema.parse(hint, value[key], key)
            elif required:
                raise InputError(f"{key}: missing key")
        return cls(**given)


@functools.cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it is required."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(cls)
    }


@dataclasses.dataclass(frozen=True)
class Buffer(_Part):
    byteLength: NonNegativeInt
    uri: str | None = None


@dataclasses.dataclass(frozen=True)
class BufferView(_Part):
    buffer: NonNegativeInt
    byteLength: NonNegativeInt
    byteOffset: NonNegativeInt = 0
    byteStride: Positive | None = None


@dataclasses.dataclass(frozen=True)
class SparseIndices(_Part):
    bufferView: NonNegativeInt
    componentType: int
    byteOffset: NonNegativeInt = 0


@dataclasses.dataclass(frozen=True)
class SparseValues(_Part):
    bufferView: NonNegativeInt
    byteOffset: NonNegativeInt = 0


@dataclasses.dataclass(frozen=True)
class Sparse(_Part):
    count: NonNegativeInt
    indices: SparseIndices
    values: SparseValues


@dataclasses.dataclass(frozen=True)
class Accessor(_Part):
    componentType: int
    count: NonNegativeInt
    type: str
    bufferView: NonNegativeInt | None = None
    byteOffset: NonNegativeInt = 0
    normalized: bool = False
    sparse: Sparse | None = None


@dataclasses.dataclass(frozen=True)
class Attributes(_Part):
    POSITION: NonNegativeInt | None = None
    NORMAL: NonNegativeInt | None = None
    TEXCOORD_0: NonNegativeInt | None = None
    TEXCOORD_1: NonNegativeInt | None = None
    TEXCOORD_2: NonNegativeInt | None = None
    TEXCOORD_3: NonNegativeInt | None = None
    COLOR_0: NonNegativeInt | None = None
    JOINTS_0: NonNegativeInt | None = None
    WEIGHTS_0: NonNegativeInt | None = None


@dataclasses.dataclass(frozen=True)
class Primitive(_Part):
    attributes: Attributes
    indices: NonNegativeInt | None = None
    material: NonNegativeInt | None = None
    mode: int = 4


@dataclasses.dataclass(frozen=True)
class Mesh(_Part):
    primitives: tuple[Primitive, ...] = ()
    name: str | None = None
    weights: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Skin(_Part):
    joints: tuple[NonNegativeInt, ...] = ()
    inverseBindMatrices: NonNegativeInt | None = None


@dataclasses.dataclass(frozen=True)
class LightIndex(_Part):
    light: NonNegativeInt


@dataclasses.dataclass(frozen=True)
class NodeExtensions(_Part):
    KHR_lights_punctual: LightIndex | None = None


@dataclasses.dataclass(frozen=True)
class Node(_Part):
    name: str | None = None
    children: tuple[NonNegativeInt, ...] = ()
    mesh: NonNegativeInt | None = None
    camera: NonNegativeInt | None = None
    skin: NonNegativeInt | None = None
    matrix: Matrix | None = None
    translation: Vector = (0.0, 0.0, 0.0)
    rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    scale: Vector = (1.0, 1.0, 1.0)
    extensions: NodeExtensions = NodeExtensions()


@dataclasses.dataclass(frozen=True)
class SceneNodes(_Part):
    nodes: tuple[NonNegativeInt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Perspective(_Part):
    yfov: YFov
    aspectRatio: float | None = None


@dataclasses.dataclass(frozen=True)
class Camera(_Part):
    type: str
    perspective: Perspective | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Spot(_Part):
    innerConeAngle: NonNegative = 0.0
    outerConeAngle: NonNegative = math.pi / 4


@dataclasses.dataclass(frozen=True)
class Light(_Part):
    type: str
    color: Color = (1.0, 1.0, 1.0)
    intensity: NonNegative = 1.0
    spot: Spot = Spot()
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class TextureTransform(_Part):
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    texCoord: NonNegativeInt | None = None


@dataclasses.dataclass(frozen=True)
class TextureInfoExtensions(_Part):
    KHR_texture_transform: TextureTransform | None = None


@dataclasses.dataclass(frozen=True)
class TextureInfo(_Part):
    index: NonNegativeInt
    texCoord: NonNegativeInt = 0
    extensions: TextureInfoExtensions = TextureInfoExtensions()


@dataclasses.dataclass(frozen=True)
class PbrMetallicRoughness(_Part):
    baseColorFactor: tuple[Fraction, Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0, 1.0)
    baseColorTexture: TextureInfo | None = None
    metallicFactor: Fraction = 1.0
    roughnessFactor: Fraction = 1.0
    metallicRoughnessTexture: TextureInfo | None = None


@dataclasses.dataclass(frozen=True)
class EmissiveStrength(_Part):
    emissiveStrength: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class IndexOfRefraction(_Part):
    ior: NonNegative = 1.5


@dataclasses.dataclass(frozen=True)
class Specular(_Part):
    specularFactor: Fraction = 1.0
    specularColorFactor: Color = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SpecularGlossiness(_Part):
    diffuseFactor: tuple[Fraction, Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0, 1.0)
    diffuseTexture: TextureInfo | None = None
    specularFactor: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    glossinessFactor: Fraction = 1.0
    specularGlossinessTexture: TextureInfo | None = None


@dataclasses.dataclass(frozen=True)
class MaterialExtensions(_Part):
    KHR_materials_emissive_strength: EmissiveStrength = EmissiveStrength()
    KHR_materials_ior: IndexOfRefraction = IndexOfRefraction()
    KHR_materials_specular: Specular = Specular()
    KHR_materials_pbrSpecularGlossiness: SpecularGlossiness | None = None


@dataclasses.dataclass(frozen=True)
class Material(_Part):
    name: str | None = None
    pbrMetallicRoughness: PbrMetallicRoughness = PbrMetallicRoughness()
    emissiveFactor: Color = (0.0, 0.0, 0.0)
    emissiveTexture: TextureInfo | None = None
    normalTexture: TextureInfo | None = None
    occlusionTexture: TextureInfo | None = None
    alphaMode: str = "OPAQUE"
    extensions: MaterialExtensions = MaterialExtensions()


@dataclasses.dataclass(frozen=True)
class WebpSource(_Part):
    source: NonNegativeInt


@dataclasses.dataclass(frozen=True)
class TextureExtensions(_Part):
    EXT_texture_webp: WebpSource | None = None


@dataclasses.dataclass(frozen=True)
class Texture(_Part):
    source: NonNegativeInt | None = None
    sampler: NonNegativeInt | None = None
    extensions: TextureExtensions = TextureExtensions()


@dataclasses.dataclass(frozen=True)
class Sampler(_Part):
    wrapS: int = 10497
    wrapT: int = 10497


@dataclasses.dataclass(frozen=True)
class Image(_Part):
    uri: str | None = None
    bufferView: NonNegativeInt | None = None


@dataclasses.dataclass(frozen=True)
class Asset(_Part):
    version: str
    generator: str = ""


@dataclasses.dataclass(frozen=True)
class Lights(_Part):
    lights: tuple[Light, ...] = ()


@dataclasses.dataclass(frozen=True)
class DocumentExtensions(_Part):
    KHR_lights_punctual: Lights = Lights()


@dataclasses.dataclass(frozen=True)
class Ignored(_Part):
    """An entry of a list that is only counted."""


@dataclasses.dataclass(frozen=True)
class Document(_Part):
    asset: Asset
    scene: NonNegativeInt = 0
    scenes: tuple[SceneNodes, ...] = ()
    nodes: tuple[Node, ...] = ()
    meshes: tuple[Mesh, ...] = ()
    skins: tuple[Skin, ...] = ()
    cameras: tuple[Camera, ...] = ()
    materials: tuple[Material, ...] = ()
    textures: tuple[Texture, ...] = ()
    samplers: tuple[Sampler, ...] = ()
    images: tuple[Image, ...] = ()
    accessors: tuple[Accessor, ...] = ()
    bufferViews: tuple[BufferView, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    animations: tuple[Ignored, ...] = ()
    extensionsUsed: tuple[str, ...] = ()
    extensionsRequired: tuple[str, ...] = ()
    extensions: DocumentExtensions = DocumentExtensions()
