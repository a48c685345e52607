"""The loop that renders for all pages, with a renderer and a clock that tests control."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rf_jax.errors import InputError
from rf_jax.scene import bundled_scene, load_scene_description
from rf_jax.viewer.loop import (
    SECONDS_BETWEEN,
    SMOOTH_SECONDS,
    STILL_SECONDS,
    RenderLoop,
    Settings,
    View,
    moving_resolution,
)
from rf_jax.viewer.state import open_scene
from tests.viewer.fakes import FakeRenderer

POSE = np.eye(4, dtype=np.float32)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Bench:
    """A loop of one scene, and what it did."""

    def __init__(self, renderer=None, **settings):
        self.clock, self.renderer = Clock(), renderer or FakeRenderer()
        self.scenes, self.errors, self.frames = [], [], {}
        edited = open_scene("cornell_box", self.renderer)
        self.made = []
        self.loop = RenderLoop(
            self.make, edited, Settings(**{"resolution": 32, "moving": 8, **settings}),
            self.scenes.append, self.errors.append, self.clock,
        )  # fmt: skip
        self.renderer.asked.clear()

    def make(self, attention):
        self.made.append(attention)
        if attention == "unknown":
            raise InputError("attention: unknown")
        return self.renderer

    def page(self, number):
        self.frames[number] = []
        self.loop.add_page(number, self.frames[number].append)
        self.look(number)

    def look(self, number, fov=40.0):
        self.loop.look(number, View(POSE, fov, 1.5))

    def work(self, seconds=0.0):
        """Passes time, and lets the loop do all that is due then."""
        self.clock.now += seconds
        while self.loop.step():
            pass

    def roughen(self, value, name="tall_box"):
        def change(old):
            return dataclasses.replace(
                old, material=dataclasses.replace(old.material, roughness=value)
            )

        self.loop.edit(name, change)

    def sides(self, number):
        return [len(frame.linear) for frame in self.frames[number]]


def test_low_while_moving_full_when_still_then_nothing():
    bench = Bench()
    bench.page(1)
    bench.work()
    bench.look(1)
    bench.work(SECONDS_BETWEEN)
    assert bench.sides(1) == [8, 8]
    bench.work(STILL_SECONDS / 2)
    assert bench.sides(1) == [8, 8]
    bench.work(STILL_SECONDS)
    bench.work(10)
    assert bench.sides(1) == [8, 8, 32]
    assert bench.renderer.count("encode") == 0  # the camera alone moved


def test_an_image_that_is_full_already_is_not_rendered_again():
    bench = Bench(moving=32)
    bench.page(1)
    bench.work()
    bench.work(10)
    assert bench.sides(1) == [32]


def test_only_the_newest_camera_is_rendered():
    bench = Bench()
    bench.page(1)
    bench.work()
    for fov in (41.0, 42.0, 43.0):
        bench.look(1, fov)
    bench.work(SECONDS_BETWEEN)
    assert [frame.view.fov_degrees for frame in bench.frames[1]] == [40.0, 43.0]


def test_stage_one_runs_only_when_the_scene_changed():
    bench = Bench()
    for page in (1, 2):
        bench.page(page)
    bench.work()
    for value in (0.1, 0.2, 0.3):
        bench.roughen(value)
    bench.work(1)
    assert bench.renderer.count("encode") == 1 and len(bench.scenes) == 1
    assert bench.loop.edited.objects["tall_box"].material.roughness == 0.3
    bench.loop.change_settings(exposure=1.0, tone_mapper="agx")
    rendered = bench.renderer.count("render")
    bench.work(1)
    assert bench.renderer.count("encode") == 1
    assert bench.renderer.count("render") == rendered  # the image is only shown differently
    assert bench.frames[1][-1].picture.mean() > bench.frames[1][-2].picture.mean()


def test_an_edit_is_shown_on_every_page():
    bench = Bench()
    for page in (1, 2, 3):
        bench.page(page)
    bench.work(1)
    before = {page: len(frames) for page, frames in bench.frames.items()}
    bench.roughen(0.5)
    bench.work(1)
    for page, frames in bench.frames.items():
        assert len(frames) > before[page]
        assert frames[-1].linear[0, 0, 0] == pytest.approx(0.02)  # of the second encoding


def test_pages_take_turns():
    bench = Bench()
    bench.page(1)
    bench.page(2)
    order = []
    for page in (1, 2):
        bench.loop.add_page(page, lambda frame, page=page: order.append(page))
        bench.look(page)
    for _ in range(6):
        for page in (1, 2):
            bench.look(page)
        bench.clock.now += SECONDS_BETWEEN
        bench.loop.step()
    assert order in ([1, 2] * 3, [2, 1] * 3)


def test_a_page_that_has_gone_costs_nothing():
    bench = Bench()
    bench.page(1)
    bench.loop.remove_page(1)
    bench.look(1)
    bench.work(1)
    assert not bench.frames[1] and not bench.renderer.asked


def test_images_of_one_page_keep_a_distance():
    bench = Bench()
    bench.page(1)
    for _ in range(1000):
        bench.look(1)
        bench.work(0.001)
    assert 50 <= len(bench.frames[1]) <= 61


def test_what_begins_to_move_during_stage_one_is_rendered_low():
    bench = Bench()
    bench.page(1)
    bench.work(10)

    def tick(stage):
        if stage == "encode":
            bench.look(1)

    bench.renderer.tick = tick
    bench.roughen(0.7)
    bench.clock.now += STILL_SECONDS  # still again when it begins
    bench.loop.step()
    assert bench.sides(1)[-1] == 8


def test_a_bad_edit_is_refused_and_taken_back():
    bench = Bench()
    bench.page(1)
    bench.work(1)
    good = bench.loop.edited

    def flatten(old):
        return dataclasses.replace(
            old, transform=dataclasses.replace(old.transform, scale=(0.0, 0.0, 0.0))
        )

    bench.loop.edit("tall_box", flatten)
    bench.work(1)
    assert len(bench.errors) == 1 and "tall_box" in bench.errors[0]
    assert bench.loop.edited is good
    bench.roughen(0.25)  # goes on from what was good
    bench.work(1)
    assert len(bench.errors) == 1
    assert bench.loop.edited.objects["tall_box"].transform == good.objects["tall_box"].transform


def test_settings_that_cannot_be_are_taken_back():
    bench = Bench()
    bench.page(1)
    bench.work(1)
    for changes in ({"attention": "unknown"}, {"resolution": 33}):
        bench.loop.change_settings(**changes)
        bench.work(1)
    assert len(bench.errors) == 2 and bench.loop.settings.resolution == 32
    bench.loop.change_settings(resolution=64)
    bench.work(1)
    assert bench.sides(1)[-1] == 64 and bench.made == [None, "unknown"]


def test_another_attention_makes_another_renderer_and_compiles_both_resolutions():
    bench = Bench()
    bench.page(1)
    bench.work(1)
    bench.renderer.asked.clear()
    bench.loop.change_settings(attention="flash")
    bench.work(1)
    assert bench.made == [None, "flash"]
    assert {side for kind, side in bench.renderer.asked if kind == "render"} == {8, 32}


def test_running_out_of_memory_ends_nothing():
    bench = Bench()
    bench.page(1)
    bench.work(1)

    def tick(stage):
        raise RuntimeError("RESOURCE_EXHAUSTED: 5 TiB")

    bench.renderer.tick = tick
    bench.loop.change_settings(resolution=64)
    bench.work(1)
    assert "out of memory" in bench.errors[0] and bench.loop.settings.resolution == 32
    bench.renderer.tick = lambda stage: None
    bench.look(1)
    bench.work(1)
    assert bench.sides(1)[-1] == 32


def test_other_errors_are_not_hidden():
    def tick(stage):
        if bench is not None and stage == "render":
            raise RuntimeError("a bug")

    bench = None
    bench = Bench(FakeRenderer(tick=tick))
    bench.page(1)
    with pytest.raises(RuntimeError, match="a bug"):
        bench.work()


@given(st.integers(1, 128), st.sampled_from((1, 4, 64)), st.floats(1e-4, 1e3))
def test_the_moving_resolution_is_one_that_the_network_takes(count, multiple, seconds):
    full = count * multiple
    moving = moving_resolution(full, multiple, seconds)
    assert moving % multiple == 0 and multiple <= moving <= full
    if seconds < SMOOTH_SECONDS:
        assert moving == full
    elif moving > max(multiple, full / 8):
        assert seconds * (moving / full) ** 2 <= SMOOTH_SECONDS * 1.001


def test_the_scene_files_own_values_are_kept():
    """Opening a scene and changing nothing renders nothing else than the file."""
    bench = Bench()
    description = load_scene_description(bundled_scene("cornell_box"))
    assert bench.loop.edited.objects == description.objects
