"""The renderer as a pure function: its images, its gradients, and what JAX makes of it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rf_jax
from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.rendering.function import render_parameters
from rf_jax.rendering.renderer import Renderer
from rf_jax.trained_on import TrainedOn
from rf_jax.weights.random_weights import random_variables

RESOLUTION = 16


@pytest.fixture(scope="module")
def renderer(variables, config):
    return Renderer(variables, config, trained_on=TrainedOn(RESOLUTION), devices=1)


@pytest.fixture(scope="module")
def function(renderer):
    return rf_jax.render_function(renderer)


@pytest.fixture(scope="module")
def scene():
    """Flat and smooth objects that shine a little, a light, two views."""
    shiny = {"diffuse": (0.7, 0.3, 0.2), "specular": (0.1, 0.2, 0.3), "roughness": 0.4}
    builder = rf_jax.SceneBuilder()
    builder.add_mesh(trimesh.creation.icosphere(1, 0.3), shiny | {"smooth_shading": True}, name="a")
    builder.add_mesh(trimesh.creation.box((0.2, 0.3, 0.4)), shiny | {"emissive": 0.5}, name="b")
    builder.add_light((0.3, -0.5, 2))
    return builder.add_camera((0.2, -2, 0.3)).add_camera((-1, -1.5, 0.5), fov=50).build()


@pytest.fixture(scope="module")
def parameters(scene):
    return rf_jax.scene_parameters(scene)


def assert_close(image, expected, tolerance=1e-5):
    """In log radiance, because random networks make images of any size."""
    np.testing.assert_allclose(np.log1p(image), np.log1p(expected), atol=tolerance, rtol=tolerance)


# --- images ---


def test_the_bundled_network_makes_the_image_of_the_renderer():
    scene = rf_jax.load_scene("cornell_box")
    renderer = Renderer.from_pretrained()
    image = rf_jax.render_function(renderer)(rf_jax.scene_parameters(scene))
    assert image.shape == (1, 64, 64, 3) and image.dtype == jnp.float32
    np.testing.assert_allclose(image, renderer.render(scene)[0], atol=2e-5, rtol=2e-4)


def test_every_parameter_reaches_the_image(function, renderer, scene, parameters):
    """Views, smooth normals, shine, and materials per face; `scene` has them all."""
    assert_close(function(parameters), renderer.render(scene)[0])
    texture = scene.texture.copy()
    texture[0, 0:3] = 0.9
    spotted = scene.replace(texture=texture)
    image = function(rf_jax.scene_parameters(spotted))
    assert_close(image, renderer.render(spotted)[0])
    assert np.abs(np.log1p(image) - np.log1p(function(parameters))).max() > 1e-3


def test_given_normals_are_used(function, renderer, scene):
    normals = np.roll(scene.vertex_normals, 1, axis=1)
    turned = scene.replace(vertex_normals=normals, objects=None, object_names=())
    assert_close(function(rf_jax.scene_parameters(turned)), renderer.render(turned)[0])


def test_paths_and_resolutions():
    parameters = rf_jax.scene_parameters(rf_jax.load_scene("cornell_box"))
    assert rf_jax.render_function(resolution=32)(parameters).shape == (1, 32, 32, 3)


# --- gradients ---


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


FREE = {
    "vertices": lambda p, x: p.with_object("a", vertices=p.objects["a"].vertices + x),
    "flat vertices": lambda p, x: p.with_object("b", vertices=p.objects["b"].vertices + x),
    "diffuse": lambda p, x: p.with_object("a", diffuse=p.objects["a"].diffuse + x),
    "specular": lambda p, x: p.with_object("a", specular=p.objects["a"].specular + x),
    "roughness": lambda p, x: p.with_object("b", roughness=p.objects["b"].roughness + x),
    "emission": lambda p, x: p.with_object("light", emission=p.objects["light"].emission + x),
    "position": lambda p, x: p.with_cameras(position=p.cameras.position + x),
    "target": lambda p, x: p.with_cameras(target=p.cameras.target + x),
    "up": lambda p, x: p.with_cameras(up=p.cameras.up + x),
    "fov": lambda p, x: p.with_cameras(fov_degrees=p.cameras.fov_degrees + x),
}
SHAPES = {
    "vertices": (42, 3),
    "flat vertices": (8, 3),
    "roughness": (),
    "position": (2, 3),
    "target": (2, 3),
    "up": (2, 3),
    "fov": (2,),
}


@pytest.fixture(scope="module")
def float64_loss(variables, config, parameters):
    """A loss of all free parameters, in float64, and their zeros."""
    with jax.enable_x64(True):
        model = RenderFormer(config, jnp.float64)
        given, start = in_float64(variables), in_float64(parameters)
        weights = np.random.default_rng(0).normal(size=(2, RESOLUTION, RESOLUTION, 3))

        def loss(free):
            changed = start
            for name, value in free.items():
                changed = FREE[name](changed, value)
            image = render_parameters(model, given, changed, RESOLUTION)
            return jnp.mean(weights * jnp.log1p(image))

        free = {name: np.zeros(SHAPES.get(name, (3,))) for name in FREE}
        yield jax.jit(loss), jax.jit(jax.grad(loss))(free), free


@pytest.mark.parametrize("name", FREE)
def test_gradients_are_central_differences(float64_loss, name):
    loss, gradient, free = float64_loss
    with jax.enable_x64(True):
        direction = np.random.default_rng(1).normal(size=free[name].shape)
        step = 1e-2 if name == "emission" else 1e-5
        values = [float(loss(free | {name: sign * step * direction})) for sign in (1, -1)]
        expected = (values[0] - values[1]) / (2 * step)
        found = float(np.sum(np.asarray(gradient[name]) * direction))
        assert gradient[name].dtype == np.float64
        assert abs(expected) > 1e-9
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def loss_of(function):
    return lambda parameters: jnp.mean(jnp.log1p(function(parameters)))


@pytest.mark.slow
def test_gradients_of_the_renderer_are_finite_and_rematerialisation_keeps_them(
    renderer, function, parameters
):
    gradient = jax.jit(jax.grad(loss_of(function)))(parameters)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    again = jax.jit(jax.grad(loss_of(rf_jax.render_function(renderer, remat=True))))(parameters)
    for a, b in zip(*map(jax.tree.leaves, (gradient, again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(np.abs(a).max(), 1e-9))


@pytest.mark.slow
def test_sorted_triangles_have_gradients_too(variables, config, scene, parameters):
    """Attention that reads sorted triangles, and lights first."""
    renderer = Renderer(
        variables, config, attention="sliding_sink", trained_on=TrainedOn(16), devices=1
    )
    function = rf_jax.render_function(renderer)
    assert_close(function(parameters), renderer.render(scene)[0])
    direction = np.random.default_rng(2).normal(size=3).astype(np.float32)

    @jax.jit
    def along(amount):
        colour = parameters.objects["a"].diffuse + amount * direction
        return loss_of(function)(parameters.with_object("a", diffuse=colour))

    step = 1e-2
    expected = (along(step) - along(-step)) / (2 * step)
    assert abs(expected) > 1e-5
    np.testing.assert_allclose(jax.grad(along)(0.0), expected, rtol=2e-2)


# --- mapped, composed, on several devices ---


def stacked(parameters, count):
    """Scenes whose parameters all differ a little."""
    return jax.tree.map(lambda x: jnp.stack([x * (1 + 0.01 * i) for i in range(count)]), parameters)


def one(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_mapped_over_scenes(function, parameters):
    scenes = stacked(parameters, 3)
    images = jax.jit(jax.vmap(function))(scenes)
    for i in range(3):
        assert_close(images[i], function(one(scenes, i)))


def test_mapped_over_views(function, parameters):
    single = jax.tree.map(lambda x: x[:, None], parameters.cameras)  # [V, 1, ...]
    axes = rf_jax.SceneParameters(objects=None, cameras=0)
    images = jax.vmap(function, in_axes=(axes,))(parameters.replace(cameras=single))
    assert_close(images[:, 0], function(parameters))


@pytest.mark.slow
def test_jit_vmap_and_grad_of_one_parameter(function, parameters):
    colours = jnp.asarray([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])

    def loss(colour):
        return loss_of(function)(parameters.with_object("a", diffuse=colour))

    together = jax.jit(jax.vmap(jax.grad(loss)))(colours)
    alone = jax.jit(jax.grad(loss))(colours[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-4, atol=1e-7)
    total = jax.jit(jax.grad(lambda colours: jnp.sum(jax.vmap(loss)(colours))))(colours)
    np.testing.assert_allclose(total, together, rtol=1e-4, atol=1e-7)


def image_and_gradient(function):
    """A function of several scenes: their images, and the gradients of their losses."""

    def loss(parameters):
        image = function(parameters)
        return jnp.mean(jnp.log1p(image)), image

    return jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))


@pytest.fixture(scope="module")
def scenes_on_one_device(function, parameters):
    """Four scenes, the gradient of their lights, and their images."""
    scenes = stacked(parameters, 4)
    gradient, images = image_and_gradient(function)(scenes)
    return scenes, gradient.objects["light"].emission, images


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_over_devices(function, scenes_on_one_device, kind):
    scenes, expected, expected_images = scenes_on_one_device
    mesh = jax.make_mesh((4, 2), ("scenes", "views"), (kind,) * 2)

    def put(tree, *axes):
        return jax.device_put(tree, NamedSharding(mesh, P(*axes)))

    with jax.set_mesh(mesh):
        cameras = put(scenes.cameras, "scenes", "views")
        placed = scenes.replace(objects=put(scenes.objects, "scenes"), cameras=cameras)
        gradient, images = image_and_gradient(function)(placed)
    emission = gradient.objects["light"].emission
    assert images.sharding.spec[:2] == ("scenes", "views")
    assert emission.sharding.spec[0] == "scenes"
    assert_close(images, expected_images)
    np.testing.assert_allclose(emission, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_the_example_in_the_readme():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (section,) = re.findall(r"\n## Gradients\n(.*?)\n## ", text, re.DOTALL)
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    red, _, blue = names["gradient"].objects["left_wall"].diffuse
    assert red > 0 > blue and names["images"].shape == (3, 1, 64, 64, 3)


# --- what it refuses ---


def test_networks_that_are_not_functions_of_these_parameters():
    v2 = VARIANTS["testing_v2"]
    with pytest.raises(rf_jax.InputError, match="expected weights of RenderFormer V1, found V2"):
        rf_jax.render_function(Renderer(random_variables(v2, 0), v2, devices=1))


def test_resolutions_of_the_network(renderer):
    with pytest.raises(rf_jax.InputError, match="resolution: expected a positive multiple of 8"):
        rf_jax.render_function(renderer, 20)
