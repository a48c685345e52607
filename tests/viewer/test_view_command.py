"""The command that starts the viewer, where it ends before a page is served."""

import json
import sys

import pytest

from rf_jax.scene import bundled_scene

pytest.importorskip("viser", reason="the viewer needs the extra view")


@pytest.fixture
def refused_view(refused):
    return lambda *arguments: refused("rf_jax.view", *arguments)


def test_a_broken_scene_gives_its_message_and_no_page(refused_view, tmp_path, monkeypatch):
    monkeypatch.setattr("viser.ViserServer", lambda *_, **__: pytest.fail("a page was served"))
    description = json.loads(bundled_scene("cornell_box").read_text())
    description["objects"]["floor"]["material"]["roughness"] = "rough"
    (tmp_path / "scene.json").write_text(json.dumps(description))
    assert "objects.floor.material.roughness" in refused_view("scene.json")
    assert "missing.json" in refused_view("missing.json")
    assert "an animation" in refused_view(bundled_scene("turning_block"))


def test_bad_options(refused_view):
    assert "multiple of 4" in refused_view("--resolution", 33)
    assert "multiple of 4" in refused_view("--moving_resolution", 33)
    for port in (-1, 65536):
        assert "--port: expected 0 to 65535" in refused_view("--port", port)
    assert "--host" in refused_view("--host", "203.0.113.7")  # of documentation (RFC 5737)
    assert "softmax" in refused_view("--attention", "softmax")


def test_without_the_extra_it_says_what_to_install(refused_view, monkeypatch):
    monkeypatch.setitem(sys.modules, "rf_jax.viewer.server", None)  # as without viser
    assert "pip install 'rf_jax[view]'" in refused_view()
