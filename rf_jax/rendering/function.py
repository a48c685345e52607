"""The renderer as a pure function of arrays: what `jax.grad`, `jax.vmap` and `jax.jit` take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rf_jax.errors import InputError
from rf_jax.geometry import camera_pose, corner_normals
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.radiance import log_radiance
from rf_jax.rendering.preprocess import bucket_length
from rf_jax.rendering.renderer import Renderer
from rf_jax.rendering.sharding import device_mesh
from rf_jax.rendering.stages import encode, render
from rf_jax.rendering.token_order import token_order
from rf_jax.scene.parameters import CameraParameters, ObjectParameters, SceneParameters
from rf_jax.structs import SceneTokens
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS

RenderFunction = Callable[[SceneParameters], jax.Array]


def render_function(
    renderer: Renderer | str | Path = BUNDLED_WEIGHTS,
    resolution: int | tuple[int, int] | None = None,
    remat: bool = False,
) -> RenderFunction:
    """The renderer as a pure function of the parameters of a scene.

    It can be differentiated (in reverse mode), mapped over scenes, views and parameters, and used
    inside of programs for one device or several, whose mesh axes may be automatic or explicit. It
    checks nothing: `rf_jax.scene_parameters` checks the scene that the parameters come from.

    Args:
      renderer: its network, precision and attention are used. A path is that of weights, as for
        `Renderer.from_pretrained`; the default is the bundled network.
      resolution: as in `Renderer.render`.
      remat: whether gradients compute each layer again instead of storing what is inside it, which
        takes less memory and more time.

    Returns:
      a function from `SceneParameters` of V views to linear radiance [V, H, W, C] in float32, which
      equals the image of `Renderer.render` up to rounding. It is compiled once per topology of
      scenes, number of views and placement.

    Raises:
      InputError: weights that cannot be read or are of RenderFormer V2, or a resolution that the
        network cannot render.
    """
    if not isinstance(renderer, Renderer):
        renderer = Renderer.from_pretrained(renderer)
    model, variables = renderer.network()
    if model.config.v2 is not None:
        raise InputError(
            "render_function: expected weights of RenderFormer V1, found V2, which reads materials "
            "as latents"
        )
    resolution = renderer.trained_on.resolution if resolution is None else resolution
    resolution = renderer.check_resolution(resolution)
    model = model.clone(remat=remat)

    def function(parameters: SceneParameters) -> jax.Array:
        return render_parameters(model, variables, parameters, resolution)

    return jax.jit(lambda parameters: _with_automatic_axes(function, parameters))


def _with_automatic_axes(function: RenderFunction, parameters: SceneParameters) -> jax.Array:
    """Calls the function; explicit axes of the parameters' mesh are automatic inside.

    XLA then places what the network computes. Views of the result are split as cameras are.
    """
    cameras, everything = (
        [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(tree)]
        for tree in (parameters.cameras, parameters)
    )
    meshes = [sharding.mesh for sharding in everything if sharding.mesh.explicit_axes]
    if not meshes:
        return function(parameters)
    views = next((s.spec[0] for s in cameras if s.spec and s.spec[0] is not None), None)
    out = NamedSharding(meshes[0], PartitionSpec(views))
    return jax.sharding.auto_axes(function, out_sharding=out)(parameters)


def render_parameters(
    model: RenderFormer, variables: dict[str, Any], parameters: SceneParameters, resolution: int
) -> jax.Array:
    """The images [V, H, H, C] of a scene's views, in the type of the parameters."""
    mesh = device_mesh(jax.devices()[:1])  # the stages split nothing here
    tokens = scene_tokens(parameters.objects, model.config)
    encoding = encode(model, variables, tokens, mesh=mesh)
    poses, fov_degrees = camera_poses(parameters.cameras)
    cameras = poses[None], fov_degrees[None]
    images = render(
        model, variables, encoding, *cameras, resolution=resolution, mesh=mesh, split=False
    )
    return images[0]


def camera_poses(cameras: CameraParameters) -> tuple[jax.Array, jax.Array]:
    """What the network reads of V cameras: poses [V, 4, 4] and fields of view [V]."""
    position, target, up = map(jnp.asarray, (cameras.position, cameras.target, cameras.up))
    return camera_pose(position, target, up), jnp.asarray(cameras.fov_degrees)


def scene_tokens(objects: dict[str, ObjectParameters], config: RenderFormerConfig) -> SceneTokens:
    """The network's input for one scene: what `prepare_scene` makes of a checked `Scene`.

    Triangles are in the order of the names of objects, or as `token_order` sorts them, which
    gradients take as fixed. Their number is that of the topologies, so padding is known when a
    program is traced.
    """
    pieces = [_triangles(objects[name], config) for name in sorted(objects)]
    triangles, normals, texture, emission = (jnp.concatenate(x) for x in zip(*pieces, strict=True))
    order = token_order(*map(jax.lax.stop_gradient, (triangles, emission)), config)
    triangles, normals, texture = (x[order] for x in (triangles, normals, texture))
    count, registers = len(triangles), config.num_register_tokens
    missing = bucket_length(count + registers) - registers - count

    def pad(x):
        return jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)))[None]

    return SceneTokens(
        triangles=pad(triangles),
        vertex_normals=pad(normals),
        texture=pad(texture),
        num_triangles=jnp.full((1,), count, jnp.int32),
    )


def _triangles(part: ObjectParameters, config: RenderFormerConfig) -> tuple[jax.Array, ...]:
    """Positions, normals [F, 3, 3], encoded materials [F, 13] and emission [F, 3] of an object."""
    topology, vertices = part.topology, jnp.asarray(part.vertices)
    normals = part.normals
    if normals is None:
        normals = corner_normals(vertices, topology.faces, topology.shading, topology.num_groups)
    linear = jnp.asarray(part.emission)
    emission = linear if config.use_ldr else log_radiance(linear)
    roughness = jnp.asarray(part.roughness)[..., None]
    # The order of the channels is that of `rf_jax.structs`
    channels = part.diffuse, part.specular, roughness, part.normal_map, emission
    faces = len(topology.faces)
    texture = [jnp.broadcast_to(x, (faces, jnp.shape(x)[-1])) for x in channels]
    linear = jnp.broadcast_to(linear, (faces, 3))
    return vertices[topology.faces], normals, jnp.concatenate(texture, axis=-1), linear
