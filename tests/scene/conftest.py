"""A small valid scene, as a JSON value and as arrays, for tests to use and to break."""

import numpy as np
import pytest

from rf_jax import geometry
from rf_jax.structs import EMISSION, NUM_CHANNELS, Scene

TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.fixture
def scene_dict():
    material = {
        "diffuse": [0.5, 0.25, 0.75],
        "specular": [0.1, 0.1, 0.1],
        "roughness": 0.3,
        "emissive": [0, 0, 0],
        "smooth_shading": False,
    }
    transform = {"translation": [0, 0, 0], "rotation": [0, 0, 0], "scale": [1, 1, 1]}
    return {
        "scene_name": "small",
        "version": "1.0",
        "objects": {"box": {"mesh_path": "a.obj", "transform": transform, "material": material}},
        "cameras": [{"position": [0, -2, 0], "look_at": [0, 0, 0], "up": [0, 0, 1], "fov": 40}],
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with the mesh of `scene_dict`."""
    (tmp_path / "a.obj").write_text(TETRAHEDRON)
    return tmp_path


@pytest.fixture
def scene():
    """Five triangles, two views; values that float16 holds exactly."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 64, (5, NUM_CHANNELS)).astype(np.float32) / 64
    texture[0, EMISSION] = 5000
    camera = geometry.look_at((0, -2, 0), (0, 0, 0), (0, 0, 1)).astype(np.float32)
    return Scene(
        triangles=rng.uniform(-0.5, 0.5, (5, 3, 3)).astype(np.float32),
        vertex_normals=np.tile(np.float32([0, 0, 1]), (5, 3, 1)),
        texture=texture,
        valid_mask=None,
        camera_to_world=np.stack([camera, camera]),
        fov_degrees=np.float32([40, 60]),
    )
