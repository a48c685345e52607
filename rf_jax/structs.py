"""The scene that flows through the project.

Axes, here and in every docstring:
  B scenes, V views, N triangles (padded), R register tokens, S = R + N, P = h * w ray patches,
  D width, L layers, nh heads, hd head dim, H W image height and width, C channels, T texels a side.
"""

from flax import struct
from numpy.typing import ArrayLike


@struct.dataclass
class Scene:
    """Triangles with materials, lights and cameras, in physical units; batched (B first) or not.

    Attributes:
      triangles: [(B,) N, 3, 3] vertex positions in world space, about [-0.5, 0.5]^3 (vertex, xyz).
      vertex_normals: [(B,) N, 3, 3] unit normals at those vertices.
      texture: materials, linear, channels as in `rf_jax.texture`: [(B,) N, 13] with one value a
        triangle, or [(B,) N, 13, T, T] patches whose texels with x + y > T are 0.
      valid_mask: [(B,) N] bool, True for real triangles; None when all of them are.
      camera_to_world: [(B,) V, 4, 4] rigid, OpenGL and Blender axes (+x right, +y up, -z forward).
      fov_degrees: [(B,) V] full field of view of the square image.
    """

    triangles: ArrayLike
    vertex_normals: ArrayLike
    texture: ArrayLike
    valid_mask: ArrayLike | None
    camera_to_world: ArrayLike
    fov_degrees: ArrayLike
