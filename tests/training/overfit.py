"""Memorises a few scenes: a network that cannot has a broken gradient somewhere.

python tests/training/overfit.py [--scenes 8] [--data DIR]

prints the PSNR every 100 steps; without --data the images are made-up blobs of light, 32x32.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import jax
import numpy as np
from scenes import write_scenes
from settings import small_config

from rf_jax.models import VARIANTS
from rf_jax.training import sharding
from rf_jax.training.data import BatchStream, SceneLoader
from rf_jax.training.loop import compile_steps
from rf_jax.training.scene_files import find_training_files
from rf_jax.training.steps import make_model

MODEL = dataclasses.replace(
    VARIANTS["testing"],
    latent_dim=72,
    num_heads=2,
    dim_feedforward=192,
    texture_encode_patch_size=1,
    view_transformer_latent_dim=72,
    view_transformer_n_heads=2,
    view_transformer_ffn_hidden_dim=192,
    dpt_features=32,
    dpt_out_channels=(16, 24, 32, 48),
)


def overfit(folder: Path, scenes: int, steps: int, resolution: int, max_triangles: int):
    """Yields the step and the mean PSNR of the last 20 steps, every 100 steps."""
    config = small_config(
        folder,
        batch_size=4,
        total_steps=steps,
        learning_rate=2e-3,
        warmup_steps=50,
        cosine_steps=steps - 50,
        model=MODEL,
        data_resolution=resolution,
        data_max_triangles=max_triangles,
        data_views=2,
        data_augment=False,
    )
    mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:1])
    compiled = compile_steps(config, mesh, make_model(config, mesh), None)
    state, decibels = compiled.init(), []
    files = tuple(find_training_files(config, "train")[:scenes])
    stream = BatchStream(SceneLoader(files, config, True), config.batch_size, 0, steps)
    for step, batch in enumerate(stream, 1):
        state, metrics = compiled.train(state, sharding.to_devices(batch, mesh), None)
        decibels.append(metrics["psnr"])
        if step % 100 == 0:
            yield step, float(np.mean([float(x) for x in decibels[-20:]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--max_triangles", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_scenes(Path(folder), args.scenes, side=args.resolution)
        for step, decibels in overfit(
            data, args.scenes, args.steps, args.resolution, args.max_triangles
        ):
            print(f"step {step}: PSNR {decibels:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
