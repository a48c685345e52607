"""Path-traced images in the background, with a path tracer that is made up and with Mitsuba."""

import queue
import types
from multiprocessing.connection import wait

import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import load_scene
from rf_jax.structs import expand_texture
from rf_jax.viewer import path_traced
from rf_jax.viewer.loop import Frame, View

pytest.importorskip("viser", reason="the viewer needs the extra view")

from rf_jax.viewer.tracing import traceable


class Messages(list):
    send = list.append


@pytest.fixture
def traced(monkeypatch):
    """What the process sends if its path tracer returns these images or raises this error."""
    monkeypatch.setattr(path_traced, "end_with_parent", lambda: None)
    monkeypatch.setattr(path_traced.os, "nice", lambda by: None)

    def run(answer, check=lambda *_: "scalar_rgb"):
        seeds = []

        def render(scene, seed):
            if isinstance(answer, Exception):
                raise answer
            seeds.append(seed)
            return np.full((1, 4, 4, 4), answer[len(seeds) - 1], np.float32)

        monkeypatch.setattr(path_traced, "check_renderer", check)
        tracer = types.SimpleNamespace(render=render)
        monkeypatch.setattr(path_traced, "make_path_tracer", lambda *_: tracer)
        messages = Messages()
        path_traced._trace(messages, None, path_traced.RenderConfig(resolution=4, spp=8))
        return messages, seeds

    return run


def test_each_pass_sends_the_mean_so_far(traced):
    values = np.random.default_rng(0).random(path_traced.PASSES)
    messages, seeds = traced(values)
    assert len(messages) == path_traced.PASSES and len(set(seeds)) == path_traced.PASSES
    np.testing.assert_allclose(messages[-1], values.mean(), rtol=1e-5)
    assert messages[-1].shape == (4, 4, 3)


def test_what_is_missing_or_fails_is_said(traced):
    def missing(*_):
        raise InputError("ground truth needs Mitsuba 3: pip install 'rf_jax[datagen]'")

    assert traced([], check=missing)[0] == [
        "ground truth needs Mitsuba 3: pip install 'rf_jax[datagen]'"
    ]
    assert traced(RuntimeError("no emitter"))[0] == ["Mitsuba cannot render it (no emitter)"]


def frame_of(scene, side=16):
    view = View(scene.camera_to_world[0], float(scene.fov_degrees[0]), 1.0)
    return Frame(np.zeros((side, side, 3), np.float32), np.zeros((1, 1, 3), np.uint8), view, {})


def test_the_scene_is_seen_as_the_page_sees_it():
    scene = load_scene("cornell_box")
    view = View(np.eye(4), 33.0, 1.0)
    seen = traceable(scene, Frame(None, None, view, {}))
    assert np.array_equal(seen.camera_to_world, np.eye(4)[None]) and seen.fov_degrees == [33]
    textured = scene.replace(texture=expand_texture(scene.texture))
    with pytest.raises(InputError, match="one material per triangle"):
        traceable(textured, frame_of(scene))


@pytest.mark.slow
def test_mitsuba_renders_in_a_process_that_can_be_stopped():
    pytest.importorskip("mitsuba", reason="ground truth needs the extra datagen")
    scene, answers = load_scene("cornell_box"), queue.Queue()

    def start(samples):
        return path_traced.PathTracing(
            traceable(scene, frame_of(scene)), 16, samples,
            lambda done, image: answers.put((done, image)), lambda message: answers.put(message),
        )  # fmt: skip

    start(32)
    for i in range(path_traced.PASSES):
        done, image = answers.get(timeout=400)
        assert done == (i + 1) / path_traced.PASSES and image.shape == (16, 16, 3)
    assert np.isfinite(image).all() and 0.05 < image.mean() < 1
    stopped = start(10**6)
    stopped.stop()
    # Another thread joins it, and a process that two threads join may look alive to one of them
    assert wait([stopped._process.sentinel], timeout=100) and answers.empty()
    died = start(10**6)
    died._process.kill()
    assert "ended (status -9)" in answers.get(timeout=100)
