"""A scene as a tree of floating-point arrays, which can be differentiated, mapped and optimised.

`scene_parameters` checks a scene and takes it apart; `rf_jax.rendering.function` renders the
result. Every leaf of the tree is a floating-point array, so that `jax.grad`, `jax.vmap` and Optax
take the tree as it is. What is discrete (which vertices a face has, which corners share a normal)
is static.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rf_jax.errors import InputError, listed
from rf_jax.geometry import corner_normals
from rf_jax.scene.validate import validate_scene, with_view_axes
from rf_jax.structs import DIFFUSE, EMISSION, NORMAL, ROUGHNESS, SPECULAR, Scene, constant_texture

UNNAMED = "unnamed"
"""The name of the object that holds all triangles which belong to none."""

_FLAT, _SAME_NORMALS = 1e-3, 1e-2
"""Largest distance of unit normals up to which a corner has the normal of its face, and up to which
the normals that vertices give are those of the scene. The normals of files may be in float16."""


class Topology:
    """What is discrete about an object. Two that hold the same compare equal.

    Attributes:
      faces: [F, 3] int32 indices of vertices.
      shading: [F, 3] int32, the group of corners that share a normal.
      num_groups: how many groups there are.
    """

    def __init__(self, faces: np.ndarray, shading: np.ndarray):
        self.faces, self.shading = np.array(faces, np.int32), np.array(shading, np.int32)
        self.num_groups = int(self.shading.max()) + 1
        for array in (self.faces, self.shading):
            array.setflags(write=False)
        self._content = self.faces.tobytes(), self.shading.tobytes()
        self._hash = hash(self._content)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Topology) and self._content == other._content)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Topology({len(self.faces)} faces)"


@struct.dataclass
class ObjectParameters:
    """One object. A material has one value for all its faces, or one for each: [F, ...].

    Attributes:
      vertices: [K, 3] in world space; corners at the same place are one vertex.
      diffuse, specular: [3] or [F, 3] reflectances >= 0, linear RGB.
      roughness: [] or [F] in [0, 1].
      emission: [3] or [F, 3] emitted radiance >= 0, linear RGB.
      normal_map: [3] or [F, 3], `FLAT_NORMAL` without a normal map.
      normals: None computes them from the vertices. Otherwise [F, 3, 3] unit normals, which do not
        follow the vertices.
      topology: static.
    """

    vertices: ArrayLike
    diffuse: ArrayLike
    specular: ArrayLike
    roughness: ArrayLike
    emission: ArrayLike
    normal_map: ArrayLike
    normals: ArrayLike | None
    topology: Topology = struct.field(pytree_node=False)


@struct.dataclass
class CameraParameters:
    """V views.

    Attributes:
      position, target: [V, 3], where the cameras and the middles of their images are.
      up: [V, 3] directions that point upwards in the images, of any length.
      fov_degrees: [V] full field of view of the square images.
    """

    position: ArrayLike
    target: ArrayLike
    up: ArrayLike
    fov_degrees: ArrayLike


@struct.dataclass
class SceneParameters:
    """All of a scene that can be free. Lights are objects whose emission is not 0.

    Attributes:
      objects: by their names.
      cameras: the views.
    """

    objects: dict[str, ObjectParameters]
    cameras: CameraParameters

    def with_object(self, name: str, **values: Any) -> "SceneParameters":
        """New parameters in which some fields of one object have other values.

        Args:
          name: a key of `objects`.
          values: fields of `ObjectParameters`, for example `diffuse=colour`.

        Raises:
          InputError: there is no such object or field.
        """
        if name not in self.objects:
            raise InputError(f"no object named {name!r}; there are {listed(self.objects)}")
        fields = ObjectParameters.__dataclass_fields__
        if unknown := values.keys() - fields.keys():
            raise InputError(f"{name}: unknown {listed(unknown)}; expected one of {listed(fields)}")
        changed = self.objects[name].replace(**values)
        return self.replace(objects={**self.objects, name: changed})

    def with_cameras(self, **values: Any) -> "SceneParameters":
        """New parameters in which some fields of the cameras have other values."""
        return self.replace(cameras=self.cameras.replace(**values))


def scene_parameters(scene: Scene) -> SceneParameters:
    """The parameters of a scene, which is checked here; what renders them checks nothing.

    Normals are computed from vertices as the scene's builder does. Which corners share one is found
    from the normals that the scene has, and stays as it is when vertices move: corners of an object
    that have the same place and the same normal share it, unless all corners of the connected piece
    have the normals of their faces, as with flat shading. Smooth shading keeps the creases that it
    has and makes no new ones. An object whose normals are not those of its vertices, as files may
    have, keeps them as constants (`ObjectParameters.normals`).

    A camera's `target` is the point of its axis that is nearest to the origin, or one that is 1
    away if that point lies behind it.

    Args:
      scene: not batched; padding is left out. Triangles without an object form one named "unnamed",
        which is all of a scene from an HDF5 file.

    Returns:
      parameters of float32 JAX arrays.

    Raises:
      InputError: a bad scene, a batch, or texture patches that hold several values.
    """
    if not isinstance(scene, Scene):
        raise InputError(f"scene: expected a Scene of V1, found {type(scene).__name__}")
    scene = with_view_axes(scene)
    validate_scene(scene)
    if np.ndim(scene.triangles) != 3:
        raise InputError(
            "scene: expected one scene, found a batch; take the parameters of each and stack them "
            "with jax.tree.map"
        )
    valid = np.ones(len(scene.triangles), bool)
    valid = valid if scene.valid_mask is None else np.asarray(scene.valid_mask)
    names = np.full(len(valid), -1) if scene.objects is None else np.asarray(scene.objects)
    texture = _values(np.asarray(scene.texture)[valid])
    triangles, normals = (np.asarray(x)[valid] for x in (scene.triangles, scene.vertex_normals))
    objects = {}
    for index in np.unique(names[valid]):
        chosen = names[valid] == index
        name = UNNAMED if index < 0 else scene.object_names[index]
        objects[name] = _object(triangles[chosen], normals[chosen], texture[chosen])
    return SceneParameters(objects, _cameras(scene))


def _values(texture: np.ndarray) -> np.ndarray:
    """Material values [N, 13] of textures [N, 13] or [N, 13, T, T]."""
    values = texture if texture.ndim == 2 else constant_texture(texture)
    if values is None:
        raise InputError(
            "texture: expected one value per triangle, found patches of several values"
        )
    return values


def _object(triangles: np.ndarray, normals: np.ndarray, texture: np.ndarray) -> ObjectParameters:
    """The parameters of triangles [F, 3, 3] with normals [F, 3, 3] and materials [F, 13]."""
    # Adding 0 turns -0 into 0, which is another value to `unique`
    corners = np.float32(triangles).reshape(-1, 3) + np.float32(0)
    vertices, index = np.unique(corners, axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    normals = np.float32(normals)
    vertices = jnp.asarray(vertices)
    topology = Topology(faces, _shading_groups(triangles, faces, normals))
    computed = corner_normals(vertices, faces, topology.shading, topology.num_groups)
    same = np.linalg.norm(computed - normals, axis=-1).max() <= _SAME_NORMALS
    same_everywhere = (texture == texture[0]).all()
    material = jnp.asarray(texture[0] if same_everywhere else texture, jnp.float32)
    return ObjectParameters(
        vertices=vertices,
        diffuse=material[..., DIFFUSE],
        specular=material[..., SPECULAR],
        roughness=material[..., ROUGHNESS][..., 0],
        emission=material[..., EMISSION],
        normal_map=material[..., NORMAL],
        normals=None if same else jnp.asarray(normals),
        topology=topology,
    )


def _shading_groups(triangles: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The groups [F, 3] of corners that share a normal, numbered from 0."""
    a, b, c = np.moveaxis(np.float64(triangles), 1, 0)
    own = np.cross(b - a, c - a)
    own /= np.maximum(np.linalg.norm(own, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    bent = np.linalg.norm(normals - own[:, None], axis=-1).max(1) > _FLAT
    piece = _connected_pieces(faces)
    smooth = (np.bincount(piece, bent) > 0)[piece]
    corner = np.arange(faces.size).reshape(faces.shape)
    # A corner of a flat piece is alone, because no other has its number.
    alone = np.where(smooth[:, None], -1, corner)
    keys = np.column_stack([faces.reshape(-1), alone.reshape(-1), normals.reshape(-1, 3) + 0])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(faces.shape)


def _connected_pieces(faces: np.ndarray) -> np.ndarray:
    """The number [F] of the piece that each face belongs to; neighbours share a vertex."""
    ends = faces[:, [0, 1]].T, faces[:, [1, 2]].T
    rows, columns = np.concatenate(ends, axis=1)
    count = faces.max() + 1
    edges = coo_array((np.ones(len(rows)), (rows, columns)), (count, count))
    return connected_components(edges, directed=False)[1][faces[:, 0]]


def _cameras(scene: Scene) -> CameraParameters:
    poses = np.asarray(scene.camera_to_world, np.float64)
    position, up, forward = poses[:, :3, 3], poses[:, :3, 1], -poses[:, :3, 2]
    distance = -(position * forward).sum(-1, keepdims=True)
    distance = np.where(distance > 1e-3, distance, 1)
    given = position, position + distance * forward, up, scene.fov_degrees
    return CameraParameters(*(jnp.asarray(x, jnp.float32) for x in given))
