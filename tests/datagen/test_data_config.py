"""Configurations of datasets: what they refuse, and what they say to install."""

import dataclasses
import sys

import pytest
from known_scenes import CONFIGS

from rf_jax import schema
from rf_jax.config_files import load_config_file, parse_config
from rf_jax.datagen import denoise, probe
from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.path_tracer import check_renderer
from rf_jax.errors import InputError

TINY = str(CONFIGS / "data_tiny.py")
ROOMS = str(CONFIGS / "data_rooms.py")


def test_overrides():
    config = load_config_file(
        DataConfig, TINY, ["--config.num_scenes=7", "--config.sampler.fov=(20.0, 30.0)"]
    )
    assert config.num_scenes == 7 and config.sampler.fov == (20.0, 30.0)
    assert parse_config(DataConfig, schema.to_dict(config)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_scenes=0", "config.num_scenes: expected an integer >= 1, found 0"),
        ("sampler.nothing=3", "config.sampler.nothing: unknown key; expected avoid_collisions, "),
        ("seed=-1", r"seed: expected an integer in \[0, 2\^32 - 1\], found -1"),
        ("val_fraction=2.0", r"val_fraction: expected a number in \[0, 1\], found 2.0"),
        ("test_fraction=0.99", r"val_fraction \+ test_fraction: expected at most 1"),
        ("min_views=5", "min_views: expected at most sampler.num_views = 4, found 5"),
        ("sampler.fov=(60.0, 30.0)", r"sampler.fov: expected \[low, high\].*found \[60.0, 30.0\]"),
        (
            "sampler.fov=(0.0, 30.0)",
            r"fov: expected \[low, high\] in degrees, 0 < low <= high < 180, found \[0.0, 30.0\]",
        ),
        (
            "sampler.num_lights=(0, 3)",
            r"sampler.num_lights: expected \[least, most\], 1 <= least <= most, found \[0, 3\]",
        ),
        (
            "sampler.max_triangles=100",
            r"templates\[0\]: 1 objects in a corner of 100 triangles leave",
        ),
        (
            "sampler.specular_ratio=(0.0, 1.5)",
            r"specular_ratio\[1\]: expected a number in \[0, 1\], found 1.5",
        ),
        ("sampler.light_facing=1.0", r"light_facing: expected a number in \[0, 0.95\], found 1.0"),
        ("render.spp=0", r"render.spp: expected an integer in \[1, 2\^24\], found 0"),
        ("render.renderer=povray", 'renderer: expected one of "mitsuba", "cycles"'),
    ],
)
def test_bad_values(override, message):
    with pytest.raises(InputError, match=message) as error:
        load_config_file(DataConfig, TINY, [f"--config.{override}"])
    assert "\n" not in str(error.value)


def refused(path, change):
    """The message for a configuration of configs/ after a change of its values."""
    values = schema.to_dict(load_config_file(DataConfig, path))
    change(values["sampler"])
    with pytest.raises(InputError) as error:
        parse_config(DataConfig, values)
    return str(error.value)


def test_no_template():
    message = refused(TINY, lambda sampler: sampler.update(templates=()))
    assert message.startswith("config.sampler.templates: expected a list with at least one")


def test_no_weight():
    def change(sampler):
        for template in sampler["templates"]:
            template["weight"] = 0

    message = refused(TINY, change)
    assert message == "config.sampler.templates: expected a weight above 0, found none"


def test_standing_needs_a_room_without_jitter():
    message = refused(ROOMS, lambda sampler: sampler["templates"][0].update(jitter=True))
    assert message == ("config.sampler.templates[0].standing: standing objects need jitter = False")


def test_missing_programs_are_named(monkeypatch):
    render = load_config_file(DataConfig, TINY).render
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'rf_jax\[datagen\]'"):
        probe.choose_variant("auto")
    with pytest.raises(InputError, match="denoising needs pyoidn"):
        denoise.check_denoiser()
    cycles = dataclasses.replace(render, renderer="cycles")
    with pytest.raises(InputError, match=r"Cycles needs --cycles_python.*pip install bpy"):
        check_renderer(cycles, None)
    with pytest.raises(InputError, match="cannot be run"):
        check_renderer(cycles, "/no/such/python")
    with pytest.raises(InputError, match="Mitsuba does not use it"):
        check_renderer(render, "python")


def test_a_python_without_bpy_is_refused():
    cycles = dataclasses.replace(load_config_file(DataConfig, TINY).render, renderer="cycles")
    with pytest.raises(InputError, match="bpy does not load"):
        check_renderer(cycles, sys.executable)


def test_auto_takes_the_fastest_that_renders(monkeypatch):
    for working, expected in [(("scalar_rgb",), "scalar_rgb"), (probe.VARIANTS, "cuda_ad_rgb")]:
        monkeypatch.setattr(probe, "renders", working.__contains__)
        assert probe.choose_variant("auto") == expected
    monkeypatch.setattr(probe, "renders", lambda variant: False)
    with pytest.raises(InputError, match="llvm_ad_rgb does not render here"):
        probe.choose_variant("llvm_ad_rgb")


def test_the_probe_survives_a_variant_that_aborts(monkeypatch):
    monkeypatch.setattr(probe, "_PROBE", "import os; os.abort()")
    assert not probe.renders("llvm_ad_rgb")
