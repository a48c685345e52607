"""The viewer without a browser: pages come and go in threads of their own."""

import types

import pytest

pytest.importorskip("viser", reason="the viewer needs the extra view")

from rf_jax.viewer import server
from rf_jax.viewer.loop import Settings
from rf_jax.viewer.state import open_scene
from tests.viewer.fakes import FakeRenderer


def test_a_page_that_closed_while_it_was_made_is_closed(tmp_path, monkeypatch):
    closed = []

    class Page:
        def __init__(self, client, loop, cameras, folder):
            viewer._on_disconnect(client)  # comes too early: there is no page yet

        def close(self):
            closed.append(self)

    monkeypatch.setattr(server, "Page", Page)
    renderer = FakeRenderer()
    edited = open_scene("cornell_box", renderer)
    viewer = server.Viewer(lambda _: renderer, edited, Settings(64, 32), tmp_path, port=0)
    try:
        viewer._on_connect(types.SimpleNamespace(client_id=7))
        assert len(closed) == 1 and not viewer._pages
    finally:
        viewer.close()
