"""The renderer from Python: what it accepts, lists of scenes, views that overlap."""

import logging

import jax
import numpy as np
import pytest

import rf_jax
from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer, one_behind
from rf_jax.scene.random_scene import random_scene
from rf_jax.trained_on import TrainedOn


@pytest.fixture(scope="module")
def renderer(variables, config):
    return Renderer(variables, config, trained_on=TrainedOn(16), devices=1)


def views(scene, count):
    """The scene with distinct cameras."""
    cameras = np.repeat(scene.camera_to_world, count, axis=0)
    cameras[:, :3, 3] *= np.linspace(1, 1.3, count, dtype=np.float32)[:, None]
    return scene.replace(camera_to_world=cameras, fov_degrees=np.full(count, 40, np.float32))


def test_the_front_door():
    image = rf_jax.Renderer.from_pretrained().render(rf_jax.load_scene("cornell_box"))
    assert image.shape == (1, 1, 64, 64, 3)
    assert rf_jax.show(image)._repr_png_().startswith(b"\x89PNG")


def test_scenes_of_different_sizes(renderer):
    scenes = [random_scene(5), views(random_scene(80), 2)]
    images = renderer.render(scenes)
    assert [image.shape[:2] for image in images] == [(1, 1), (1, 2)]
    for scene, image in zip(scenes, images, strict=True):
        assert np.array_equal(renderer.render(scene), image)


def test_cameras_and_resolutions_that_are_plain(renderer):
    scene = random_scene(5)
    expected = renderer.render(scene)
    lists = scene.replace(camera_to_world=scene.camera_to_world.tolist(), fov_degrees=[45])
    assert np.array_equal(renderer.render(lists, np.int64(16)), expected)
    one = scene.replace(camera_to_world=scene.camera_to_world[0], fov_degrees=float(45))
    assert np.array_equal(renderer.render(one, (16, 16)), expected)
    batch = jax.tree.map(lambda x: np.stack([x, x]), scene)
    one = batch.replace(camera_to_world=scene.camera_to_world[0], fov_degrees=45)
    np.testing.assert_allclose(renderer.render(one), np.tile(expected, (2, 1, 1, 1, 1)), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a positive integer, found 0"),
        ({"batch_size": 1.5}, "batch_size: expected a positive integer, found 1.5"),
        ({"resolution": (16, 32)}, "resolution: expected a positive multiple of 8.*square.*16, 32"),
        ({"resolution": 20}, "resolution: expected a positive multiple of 8.*found 20"),
        ({"resolution": 16.0}, "resolution: expected a positive multiple of 8"),
        ({"scene": random_scene(5).replace(fov_degrees="wide")}, "fov_degrees: expected floating"),
        (
            {"scene": random_scene(5).replace(camera_to_world=[[1], []])},
            "camera_to_world: expected",
        ),
        (
            {"scene": random_scene(5).replace(camera_to_world=np.eye(3))},
            "camera_to_world: expected",
        ),
        (
            {"scene": random_scene(5).replace(triangles=[1])},
            "triangles: expected an array, found l",
        ),
        ({"scene": "scene.json"}, "scene: expected a Scene or a list of scenes, found str"),
    ],
)
def test_wrong_arguments(renderer, arguments, message):
    with pytest.raises(InputError, match=message):
        renderer.render(**{"scene": random_scene(5)} | arguments)


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_of_views(renderer, batch_size):
    scene = views(random_scene(5), 5)
    image = renderer.render(scene, batch_size=batch_size)
    assert image.shape[1] == 5
    # Rounding of the log image; jax 0.12 has 2e-6 here, of a radiance of up to 2.5.
    np.testing.assert_allclose(image, renderer.render(scene), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("devices", "views_of_scene", "batch_size"), [(8, 8, 1), (3, 7, 2)])
def test_devices_share_the_views(renderer, variables, config, devices, views_of_scene, batch_size):
    scene = views(random_scene(5), views_of_scene)
    several = Renderer(variables, config, trained_on=TrainedOn(16), devices=devices)
    (running, *_) = several.dispatch_views(
        several.encode_scene(scene), scene.camera_to_world, scene.fov_degrees, 16, batch_size
    )
    assert len(running.images.sharding.device_set) == devices
    assert running.images.addressable_shards[0].data.shape[1] == batch_size
    image = several.render(scene, batch_size=batch_size)
    np.testing.assert_allclose(image, renderer.render(scene), rtol=1e-4, atol=1e-6)


def test_one_view_takes_one_device(variables, config):
    renderer = Renderer(variables, config)
    scene = random_scene(5)
    cameras = scene.camera_to_world, scene.fov_degrees
    (running,) = renderer.dispatch_views(renderer.encode_scene(scene), *cameras, 16)
    assert len(jax.local_devices()) == 8 and len(running.images.sharding.device_set) == 1


@pytest.mark.parametrize("devices", [0, 9, 1.5])
def test_devices_that_are_not_there(variables, config, devices):
    with pytest.raises(InputError, match=f"devices: expected an integer from 1 to 8.*{devices}"):
        Renderer(variables, config, devices=devices)


def test_a_fused_feed_forward_network(renderer, variables, config):
    scene = random_scene(5)
    fused = Renderer(variables, config, devices=1, feed_forward="fused")
    found, expected = (r.render(scene, resolution=16) for r in (fused, renderer))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="feed_forward: expected"):
        Renderer(variables, config, feed_forward="fast")


def test_warnings_come_once_per_renderer(variables, config, caplog):
    renderer = Renderer(variables, config, trained_on=TrainedOn(16, triangles=4))
    with caplog.at_level(logging.WARNING):
        renderer.render([random_scene(5), random_scene(6)])
    assert caplog.messages == ["5 triangles: the weights saw at most 4"]


def test_one_behind():
    events = []

    def items():
        for i in range(3):
            events.append(f"take {i}")
            yield i

    for item in one_behind(items()):
        events.append(f"use {item}")
    assert events == ["take 0", "take 1", "use 0", "take 2", "use 1", "use 2"]
    assert list(one_behind([])) == []


def test_an_error_does_not_lose_the_item_before_it():
    def items():
        yield 1
        raise ValueError

    used = []
    with pytest.raises(ValueError):
        for item in one_behind(items()):
            used.append(item)
    assert used == [1]


def test_the_next_view_runs_while_one_is_fetched(renderer, monkeypatch):
    """Otherwise the device would wait until the caller has written the image."""
    events = []
    for place, name in ((renderer._programs, "start"), (renderer, "_check_finite")):
        method = getattr(place, name)

        def noted(*arguments, name=name, method=method, **static):
            events.append(name)
            return method(*arguments, **static)

        monkeypatch.setattr(place, name, noted)
    renderer.render(views(random_scene(5), 3))
    assert [event == "start" for event in events] == [True, True, True, False, True, False, False]
