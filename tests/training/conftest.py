"""Small data, and the published configurations."""

import pytest
from scenes import write_scenes
from settings import ROOT


@pytest.fixture(autouse=True)
def published_configs(monkeypatch):
    """The configurations import each other."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Ten scenes of 16x16 pixels."""
    return write_scenes(tmp_path_factory.mktemp("data"), 10)
