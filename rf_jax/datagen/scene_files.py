"""Draws, renders and writes one scene of a dataset, and replaces it if that fails."""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from rf_jax import schema
from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.path_tracer import PathTracer, denoiser_name
from rf_jax.datagen.scenes import (
    GeneratedScene,
    generate_scene,
    good_views,
    scene_name,
    write_description,
)
from rf_jax.datagen.shapes import find_mesh_files
from rf_jax.errors import InputError, one_line
from rf_jax.scene import save_h5

MIN_MEAN_RADIANCE = 0.01
"""Least mean radiance of a view that is kept."""

ATTEMPTS = 10
"""Number of attempts at a scene; each draws another scene."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run; they do not change the scenes.

    Attributes:
      output_dir: folder of the dataset.
      num_workers: number of processes; None for one per core, or 2 where they share a GPU.
      cycles_python: a Python with `bpy`, which `render.renderer = "cycles"` needs.
      write_json: whether to write `json/NAME/scene.json` and its meshes as well.
      full_texture: whether to store [N, 13, 32, 32] patches instead of [N, 13] values.
    """

    output_dir: Path
    num_workers: int | None
    cycles_python: str | None = None
    write_json: bool = False
    full_texture: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of making a scene.

    Attributes:
      index: index of the scene.
      entry: its entry in the dataset's index; None if every attempt failed.
      failures: one line per failed attempt, with the reason.
    """

    index: int
    entry: dict[str, Any] | None
    failures: tuple[str, ...]


def split_name(config: DataConfig, index: int) -> str:
    """The split of a scene, "train", "val" or "test", by a hash of the seed and the index."""
    digest = hashlib.sha256(f"{config.seed}/{index}".encode()).digest()
    part = int.from_bytes(digest[:8], "big") / 2**64
    if part < config.val_fraction:
        return "val"
    return "test" if part < config.val_fraction + config.test_fraction else "train"


def make_scene(
    config: DataConfig,
    options: RunOptions,
    tracer: PathTracer,
    index: int,
    first_attempt: int = 0,
) -> Outcome:
    """Makes and writes one scene. If an attempt fails, the next attempt replaces it.

    Raises:
      InputError: the files cannot be written.
    """
    files = find_mesh_files(config.sampler.mesh_files)
    failures = []
    for attempt in range(first_attempt, ATTEMPTS):
        try:
            generated, images = _render(config, tracer, index, attempt, files)
        except Exception as error:  # whatever the error is, another scene takes the place
            failures.append(
                f"seed {config.seed} scene {index} attempt {attempt}: {one_line(error)}"
            )
            continue
        entry = _write(config, options, tracer.name, index, attempt, generated, images)
        return Outcome(index, entry, tuple(failures))
    return Outcome(index, None, tuple(failures))


def _render(
    config: DataConfig, tracer: PathTracer, index: int, attempt: int, files: tuple[Path, ...]
) -> tuple[GeneratedScene, np.ndarray]:
    """Draws and renders a scene; returns it with its good views only, and their images."""
    generated = _with_views(generate_scene(config, index, attempt, files), None, config.min_views)
    noise_seed = np.random.SeedSequence((config.seed, index, attempt, 1)).generate_state(1)[0]
    images = tracer.render(generated.scene, int(noise_seed))
    if bad := np.count_nonzero(~np.isfinite(images)):
        raise InputError(f"{bad} values of the images are not finite")
    bright = images[..., :3].mean(axis=(1, 2, 3)) >= MIN_MEAN_RADIANCE
    return _with_views(generated, bright, config.min_views), images[bright]


def _with_views(
    generated: GeneratedScene, keep: np.ndarray | None, min_views: int
) -> GeneratedScene:
    """The scene with some of its views; None keeps those that are not too near to a surface."""
    scene, sampled = generated.scene, generated.sampled
    why = "too near to a surface" if keep is None else "too dark"
    keep = good_views(scene) if keep is None else keep
    if keep.sum() < min_views:
        raise InputError(f"{(~keep).sum()} of {len(keep)} views are {why}")
    cameras = tuple(c for c, kept in zip(sampled.description.cameras, keep, strict=True) if kept)
    description = dataclasses.replace(sampled.description, cameras=cameras)
    return dataclasses.replace(
        generated,
        scene=scene.replace(
            camera_to_world=scene.camera_to_world[keep], fov_degrees=scene.fov_degrees[keep]
        ),
        sampled=dataclasses.replace(sampled, description=description),
    )


def _write(
    config: DataConfig,
    options: RunOptions,
    renderer: str,
    index: int,
    attempt: int,
    generated: GeneratedScene,
    images: np.ndarray,
) -> dict[str, Any]:
    """Writes the files of one scene, the HDF5 file last; returns its entry in the index."""
    name = scene_name(index)
    entry = {
        "file": f"{name}.h5",
        "index": index,
        "seed": config.seed,
        "attempt": attempt,
        "split": split_name(config, index),
        "triangles": len(generated.scene.triangles),
        "views": len(images),
        "family": generated.sampled.template.family,
    }
    attributes = {
        "index_entry": json.dumps(entry),
        "config": json.dumps(schema.to_dict(config)),
        "seed": config.seed,
        "scene_index": index,
        "attempt": attempt,
        "renderer": renderer,
        "denoiser": denoiser_name(config.render),
        "versions": json.dumps({p: importlib.metadata.version(p) for p in ("numpy", "trimesh")}),
    }
    if options.write_json:
        write_description(generated, options.output_dir / "json" / name)
    path = options.output_dir / entry["file"]
    save_h5(generated.scene, path, options.full_texture, images, attributes)
    return entry
