"""Against what the published converter makes of the published scenes (not part of the project)."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from rf_jax.scene import load_scene

DEFAULT = Path(__file__).parents[3] / "shared" / "upstream_scenes"
SCENES = Path(os.environ.get("RF_JAX_UPSTREAM_SCENES", DEFAULT))
NAMES = sorted(path.stem for path in SCENES.glob("*.json"))

pytestmark = pytest.mark.skipif(
    not NAMES, reason=f"published scenes not found in {SCENES} (set RF_JAX_UPSTREAM_SCENES)"
)


def _match(actual, expected):
    """Index of the row of `expected` nearest to each row of `actual`; each is used once."""
    assert len(actual) == len(expected)
    _, index = cKDTree(expected).query(actual)
    assert len(np.unique(index)) == len(index)
    return index


@pytest.mark.parametrize("name", NAMES or ["none"])
def test_published_scene(name):
    scene = load_scene(SCENES / f"{name}.json")
    expected = np.load(SCENES / "expected" / f"{name}.npz")
    triangles, normals, value = (expected[key] for key in ("triangles", "vn", "texture_value"))
    rows = [
        # normals and materials only separate coincident triangles
        np.concatenate([t.reshape(-1, 9), 0.01 * n.reshape(-1, 9), 0.01 * x[:, :7]], axis=1)
        for t, n, x in (
            (scene.triangles, scene.vertex_normals, scene.texture),
            (triangles, normals, value.astype(np.float32)),
        )
    ]
    index = _match(*rows)
    np.testing.assert_allclose(scene.triangles, triangles[index], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scene.vertex_normals, normals[index], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(scene.texture.astype(np.float16), value[index])
    np.testing.assert_allclose(scene.camera_to_world, expected["c2w"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scene.fov_degrees, expected["fov"])
