"""The structs that flow through the project, and the channels of a material.

Axes, here and in every docstring:
  B scenes, V views, N triangles (padded), R register tokens, S = R + N, P = h * w ray patches,
  D width, L layers, nh heads, hd head dim, H W image height and width, C channels,
  T texels per side, M volume cells, K distinct materials.

A `Scene` holds physical values. Preprocessing turns it into `SceneTokens`, and the view-independent
stage turns these into a `SceneEncoding`. Training reads `Batch`es, which hold scenes and images.
RenderFormer V2 begins with a `SceneV2` and `SceneTokensV2` instead; its encoding is the same.
"""

import jax
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from rf_jax import schema
from rf_jax.errors import InputError
from rf_jax.schema import Fraction, NonNegative

NUM_CHANNELS = 13
"""Number of material channels of a triangle, in the order of the following slices."""
DIFFUSE = slice(0, 3)
SPECULAR = slice(3, 6)
ROUGHNESS = slice(6, 7)
NORMAL = slice(7, 10)
EMISSION = slice(10, 13)

FLAT_NORMAL = (0.5, 0.5, 1.0)
"""The normal channels of a surface without a normal map."""

PUBLISHED_TEXTURE_SIZE = 32
"""Texels per side in published files."""


Color = tuple[NonNegative, NonNegative, NonNegative]
"""Linear RGB."""

_MATERIAL = {
    "diffuse": (DIFFUSE, Color),
    "specular": (SPECULAR, Color),
    "roughness": (ROUGHNESS, Fraction),
    "emissive": (EMISSION, Color),
}
"""The channels and the type of each value of a material, by its name in scene files."""


@struct.dataclass(eq=False, repr=False)
class Scene:
    """Triangles with materials, lights and cameras, in physical units; batched (B first) or not.

    `==` compares identity. To compare what two scenes hold, compare their arrays.

    Attributes:
      triangles: [(B,) N, 3, 3] vertex positions (vertex, xyz) in world space, about [-0.5, 0.5]^3.
      vertex_normals: [(B,) N, 3, 3] unit normals at those vertices.
      texture: linear materials, either one value per triangle [(B,) N, 13], or patches
        [(B,) N, 13, T, T] whose texels with x + y > T are 0.
      valid_mask: [(B,) N] bool, True for real triangles; None when all of them are real.
      camera_to_world: [(B,) V, 4, 4] rigid motions, with the camera axes of OpenGL and Blender (+x
        right, +y up, -z forward).
      fov_degrees: [(B,) V] full field of view of the square image.
      objects: [(B,) N] int, the object that each triangle belongs to, as an index into
        `object_names`; -1 for none. None where objects are not known, as in HDF5 files.
      object_names: the names of objects. They are for people and stay on the host: what the network
        is given (`SceneTokens`) has neither names nor objects.
    """

    triangles: ArrayLike
    vertex_normals: ArrayLike
    texture: ArrayLike
    valid_mask: ArrayLike | None
    camera_to_world: ArrayLike
    fov_degrees: ArrayLike
    objects: ArrayLike | None = None
    object_names: tuple[str, ...] = struct.field(pytree_node=False, default=())

    def __repr__(self) -> str:
        fields = ("triangles", "texture", "camera_to_world")
        shapes = [f"{name} {list(np.shape(getattr(self, name)))}" for name in fields]
        return f"Scene({', '.join(shapes)}, {len(self.object_names)} named objects)"

    def with_material(
        self,
        name: str,
        *,
        diffuse: ArrayLike | None = None,
        specular: ArrayLike | None = None,
        roughness: float | None = None,
        emissive: ArrayLike | None = None,
    ) -> "Scene":
        """A new scene in which the material of one object is another; this one stays as it is.

        Args:
          name: one of `object_names`.
          diffuse, specular: reflectances >= 0, linear RGB or one number for grey; diffuse is
            clipped at 1 and quantised to 8 bits, as in scene files. None keeps what is there.
          roughness: in [0, 1].
          emissive: emitted radiance >= 0, linear RGB or one number.

        Raises:
          InputError: there is no such object, or a value is out of range.
        """
        if self.objects is None or name not in self.object_names:
            known = ", ".join(self.object_names[:10]) or "none (files in HDF5 hold no names)"
            raise InputError(f"no object named {name!r} in this scene; its objects: {known}")
        given = {
            "diffuse": diffuse,
            "specular": specular,
            "roughness": roughness,
            "emissive": emissive,
        }
        mask = np.asarray(self.objects) == self.object_names.index(name)
        texture = np.array(self.texture)
        chosen = texture[mask]
        for key, value in given.items():
            if value is not None:
                channels, hint = _MATERIAL[key]
                values = np.array(schema.parse_python(hint, value, f"{name}.{key}")).reshape(-1)
                values = quantized(values) if key == "diffuse" else values
                if chosen.ndim == 4:
                    values = values[:, None, None] * texel_mask(chosen.shape[-1])
                chosen[:, channels] = values
        texture[mask] = chosen
        return self.replace(texture=texture)


@struct.dataclass
class SceneTokens:
    """The network's input for B scenes, made by `rf_jax.rendering.preprocess`.

    Attributes:
      triangles: [B, N, 3, 3] float32, real triangles first, then padding.
      vertex_normals: [B, N, 3, 3] float32.
      texture: [B, N, 13] or [B, N, 13, T, T]; emission e is given as log10(1 + e), unless the
        network is LDR.
      num_triangles: [B] int32, how many triangles are real.
    """

    triangles: jax.Array
    vertex_normals: jax.Array
    texture: jax.Array
    num_triangles: jax.Array


@struct.dataclass
class Environment:
    """An environment map as RenderFormer V2 reads it: two encoded images, and its strength.

    The maps are equirectangular, with the direction +z in their first row.

    Attributes:
      latent_ldr: [(B,) C, h, w] the latent of the map, clamped to [0, 1].
      latent_hdr: [(B,) C, h, w] the latent of log10(1 + map) over its maximum.
      strength: [(B,)] that maximum; 0 for a black map.
    """

    latent_ldr: ArrayLike
    latent_hdr: ArrayLike
    strength: ArrayLike


@struct.dataclass
class VolumeCells:
    """Cells of participating media, each of 4x4x4 densities.

    Attributes:
      density: [(B,) M, 64].
      position: [(B,) M, 3] of the centre, in world space.
      rotation: [(B,) M, 3] Euler angles x, y, z in radians.
      scale: [(B,) M, 3].
      scattering, absorption: [(B,) M, 3] RGB.
    """

    density: ArrayLike
    position: ArrayLike
    rotation: ArrayLike
    scale: ArrayLike
    scattering: ArrayLike
    absorption: ArrayLike


@struct.dataclass(eq=False)
class SceneV2:
    """One scene for RenderFormer V2, in physical units but for its latents; all entries are real.

    Attributes:
      triangles: [N, 3, 3] vertex positions (vertex, xyz) in world space, z up.
      vertex_normals: [N, 3, 3].
      textures: [K, C, T, T] the latents of distinct materials.
      texture_index: [N] int, the material of each triangle.
      emission: [N, 3] emitted radiance >= 0, linear RGB.
      environment: without a batch axis. None only for networks without environment maps; others
        take the latents of a black map.
      volumes: without a batch axis; None where there are none.
      camera_to_world: [V, 4, 4] and fov_degrees: [V], as in `Scene`.
    """

    triangles: ArrayLike
    vertex_normals: ArrayLike
    textures: ArrayLike
    texture_index: ArrayLike
    emission: ArrayLike
    environment: Environment | None
    volumes: VolumeCells | None
    camera_to_world: ArrayLike
    fov_degrees: ArrayLike


@struct.dataclass
class SceneTokensV2:
    """A V2 network's input for B scenes, made by `rf_jax.rendering.preprocess_v2`.

    Triangles and cells stay where they are; `lights` and `normal` name them in the order of the
    sequence. An entry of these is an index into [N triangles, M cells].

    Attributes:
      triangles: [B, N, 3, 3] float32, real triangles first, then padding.
      vertex_normals: [B, N, 3, 3] float32.
      textures: [B, K, C, T, T].
      texture_index: [B, N] int32.
      emission: [B, N, 3] float32, emission e given as log10(1 + e).
      environment: with a batch axis, or None.
      volumes: with a batch axis, real cells first, or None.
      num_triangles: [B] int32, how many triangles are real.
      lights: [B, lights] int32 the triangles that emit, then padding.
      num_lights: [B] int32.
      normal: [B, n] int32 all other triangles and the cells along a Hilbert curve, then padding; n
        is a multiple of the size of summary blocks.
      num_normal: [B] int32.
    """

    triangles: jax.Array
    vertex_normals: jax.Array
    textures: jax.Array
    texture_index: jax.Array
    emission: jax.Array
    environment: Environment | None
    volumes: VolumeCells | None
    num_triangles: jax.Array
    lights: jax.Array
    num_lights: jax.Array
    normal: jax.Array
    num_normal: jax.Array


@struct.dataclass
class SceneEncoding:
    """What `RenderFormer.encode_scene` keeps of B scenes for all their views.

    Attributes:
      tokens: [B, R + N, D] float32, the result of the view-independent stage.
      keys, values: [L, B, R + N, nh, hd] for the cross attention of the view-dependent stage; keys
        are normed, but not rotated unless they are in world space, as in V2. None with NeRF
        positions, because these are added before the projection and change with the view. In the
        renderer on GPUs they are tuples of L arrays.
      triangles: [B, N, 3, 3] in world space; None where no view needs them.
      num_tokens: [B] int32, how many of the tokens are real; these come first.
      light_scale: [B, 3] by which RGB radiance is multiplied after the network; None where the
        network sees emission as it is.
    """

    tokens: jax.Array
    keys: jax.Array | None
    values: jax.Array | None
    triangles: jax.Array | None
    num_tokens: jax.Array
    light_scale: jax.Array | None = None


@struct.dataclass
class Batch:
    """B training scenes with V images each.

    Attributes:
      tokens: the scenes, in world space.
      camera_to_world: [B, V, 4, 4] rigid motions, as in `Scene`.
      fov_degrees: [B, V] full field of view of the whole views.
      images: [B, V, H, H, 3] linear radiance, float16; whole views, or crops of them.
      crop_origin: [B, V, 2] int32 first row and column of the images in their views.
      rotation, translation: [B, 3, 3] and [B, 3], the rigid motion that augmentation applies.
      weight: [B] float32, 1 for a scene that counts, 0 for a row that only fills the batch.
      file: [B] int32 index of the file that a row was read from.
      skipped: [B] int32 number of unusable files that were tried before that file.
    """

    tokens: SceneTokens
    camera_to_world: np.ndarray
    fov_degrees: np.ndarray
    images: np.ndarray
    crop_origin: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    weight: np.ndarray
    file: np.ndarray
    skipped: np.ndarray


def quantized(diffuse: ArrayLike) -> np.ndarray:
    """Diffuse reflectances in 8 bits, as the published files hold them: floor(255 d) / 255."""
    return np.floor(255 * np.clip(diffuse, 0, 1)) / 255


def texel_mask(size: int) -> np.ndarray:
    """The texels of a patch that its triangle covers: [size, size] bool."""
    x, y = np.indices((size, size))
    return x + y <= size


def constant_texture(texture: np.ndarray) -> np.ndarray | None:
    """The values of patches that hold one value each.

    Args:
      texture: [..., 13, T, T].

    Returns:
      [..., 13], or None if some patch holds several values.
    """
    value = texture[..., 0, 0]
    expected = np.where(texel_mask(texture.shape[-1]), value[..., None, None], 0)
    return value if np.array_equal(texture, expected) else None


def expand_texture(value: np.ndarray, size: int = PUBLISHED_TEXTURE_SIZE) -> np.ndarray:
    """Patches [..., 13, size, size] of values [..., 13]; the inverse of `constant_texture`."""
    return np.where(texel_mask(size), value[..., None, None], np.zeros((), value.dtype))
