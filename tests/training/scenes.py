"""Training files for the tests: random small triangles with smooth made-up images."""

from pathlib import Path

import h5py
import numpy as np

from rf_jax.geometry import look_at
from rf_jax.structs import EMISSION, NUM_CHANNELS, expand_texture


def write_scene(
    path: Path,
    seed: int = 0,
    triangles: int = 6,
    views: int = 2,
    side: int = 16,
    full_texture: bool = False,
) -> None:
    """One file of the published layout; `full_texture` writes [N, 13, 32, 32] patches."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.4, 0.4, (triangles, 1, 3))
    normals = rng.normal(size=(triangles, 3, 3))
    texture = rng.uniform(0.05, 0.5, (triangles, NUM_CHANNELS))
    texture[:, EMISSION] = 0
    texture[0, EMISSION] = 1000
    texture = texture.astype(np.float16)
    positions = rng.normal(size=(views, 3))
    positions *= 1.8 / np.linalg.norm(positions, axis=1, keepdims=True)
    arrays = {
        "triangles": (centers + rng.normal(0, 0.2, (triangles, 3, 3))).astype(np.float32),
        "vn": (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32),
        "texture": expand_texture(texture) if full_texture else texture,
        "c2w": np.stack([look_at(p, (0, 0, 0), (0, 0, 1)) for p in positions]).astype(np.float32),
        "fov": rng.uniform(30, 60, views).astype(np.float32),
        "mvp": np.zeros((views, 4, 4), np.float32),
        "img": np.stack([_image(rng, side) for _ in range(views)]),
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")


def _image(rng: np.random.Generator, side: int) -> np.ndarray:
    """A few soft blobs of light, RGBA [H, H, 4] float16."""
    y, x = np.mgrid[:side, :side] / side
    image = np.full((side, side, 4), 0.1)
    for _ in range(3):
        centre, color = rng.uniform(0, 1, 2), rng.uniform(0, 1.5, 3)
        distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
        image[..., :3] += np.exp(-20 * distance)[..., None] * color
    image[..., 3] = 1
    return image.astype(np.float16)


def write_scenes(folder: Path, count: int, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_scene(folder / f"scene_{i}.h5", seed=i, **options)
    return folder
