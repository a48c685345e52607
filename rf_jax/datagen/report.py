"""Shows what a distribution or a dataset looks like: a table, a contact sheet, histograms."""

import collections
import concurrent.futures
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.scenes import generate_scene
from rf_jax.datagen.shapes import check_packages, find_mesh_files
from rf_jax.errors import InputError
from rf_jax.files import atomic_path
from rf_jax.images.figures import new_figure
from rf_jax.images.files import save_png
from rf_jax.images.tone_map import to_uint8, tone_map
from rf_jax.processes import end_with_parent, interrupts_held_back, kill_workers
from rf_jax.scene import load_h5, load_images
from rf_jax.scene.dataset import H5_FILES
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR, Scene

SHEET_COLUMNS = 8
SHEET_SIZE = 64
"""Largest number of thumbnails on a contact sheet."""

THUMBNAIL = 128
"""Side of a thumbnail in pixels."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

Statistics = dict[str, np.ndarray]
"""The values of each quantity, by its name."""


def scene_statistics(scene: Scene) -> Statistics:
    """The quantities of a scene that are random."""
    emission = scene.texture[:, EMISSION].max(axis=1)
    lights = emission > 0
    surfaces = np.unique(scene.texture[~lights], axis=0)
    edges = np.diff(scene.triangles[lights][:, [0, 1, 2, 0]], axis=1)
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    return {
        "triangles": np.array([len(scene.triangles)]),
        "lights": np.array([lights.sum()]),
        "light radiance, summed": np.array([emission.sum()]),
        "light area": areas,
        "diffuse": surfaces[:, DIFFUSE].reshape(-1),
        "specular": np.unique(surfaces[:, SPECULAR].max(axis=1)),
        "roughness": np.unique(surfaces[:, ROUGHNESS]),
        "field of view": scene.fov_degrees,
        "camera's distance from 0": np.linalg.norm(scene.camera_to_world[:, :3, 3], axis=1),
    }


def dry_run(config: DataConfig, num_workers: int) -> str:
    """Makes all scenes without ground truth, and returns the table of their distribution."""
    check_packages()
    find_mesh_files(config.sampler.mesh_files)
    statistics, families, failures = collections.defaultdict(list), collections.Counter(), 0
    for result in tqdm(
        _dry_scenes(config, num_workers), total=config.num_scenes, unit="scene", disable=None
    ):
        if isinstance(result, str):
            failures += 1
            tqdm.write(f"failed: {result}")
            continue
        families[result[0]] += 1
        for name, values in result[1].items():
            statistics[name].append(values)
    if not statistics:
        raise InputError("no scene could be made")
    shares = ", ".join(f"{name} {n / config.num_scenes:.1%}" for name, n in families.most_common())
    table = _table({name: np.concatenate(values) for name, values in statistics.items()})
    return f"{config.num_scenes} scenes, {failures} failed: {shares}\n{table}"


def _dry_scenes(config: DataConfig, num_workers: int) -> Iterator[tuple[str, Statistics] | str]:
    """What `_dry_scene` returns for every scene, made in worker processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, context, end_with_parent) as pool:
        indices = range(config.num_scenes)
        chunks = [indices[i : i + 8] for i in range(0, config.num_scenes, 8)]
        try:
            with interrupts_held_back():
                # `pool.map` would cancel what is left after an interrupt, see `kill_workers`
                running = [pool.submit(_dry_chunk, config, chunk) for chunk in chunks]
            for future in running:
                yield from future.result()
        except (KeyboardInterrupt, GeneratorExit):
            kill_workers(pool)
            raise


def _dry_chunk(config: DataConfig, indices: range) -> list[tuple[str, Statistics] | str]:
    return [_dry_scene(config, index) for index in indices]


def _dry_scene(config: DataConfig, index: int) -> tuple[str, Statistics] | str:
    """The family and the quantities of a scene, or why it could not be made."""
    files = find_mesh_files(config.sampler.mesh_files)
    try:
        generated = generate_scene(config, index, 0, files)
    except InputError as error:
        return f"seed {config.seed} scene {index}: {error}"
    return generated.sampled.template.family, scene_statistics(generated.scene)


def inspect_dataset(folder: Path) -> str:
    """Reads every file of a dataset, and writes `contact_sheet.png` and `histograms.png` into it.

    Returns:
      the number of files and images, and the table of their distribution.

    Raises:
      InputError: there is no file, or some are invalid (one line is printed for each).
    """
    paths = sorted(folder.glob(H5_FILES))
    if not paths:
        raise InputError(f"{folder}: expected a folder with *.h5 training files, found none")
    statistics, thumbnails, broken, views = collections.defaultdict(list), [], [], 0
    for path in tqdm(paths, unit="file", disable=None):
        try:
            scene, images = load_h5(path), load_images(path).astype(np.float32)
        except InputError as error:
            broken.append(error)
            tqdm.write(f"invalid: {error}")
            continue
        views += len(images)
        if len(thumbnails) < SHEET_SIZE:
            thumbnails += [thumbnail(image) for image in images[: max(1, SHEET_SIZE // len(paths))]]
        for name, values in (scene_statistics(scene) | _image_statistics(images)).items():
            statistics[name].append(values)
    if not thumbnails:
        raise InputError(f"{folder}: all {len(broken)} files are invalid")
    values = {name: np.concatenate(arrays) for name, arrays in statistics.items()}
    save_png(folder / "contact_sheet.png", contact_sheet(thumbnails))
    _save_histograms(folder / "histograms.png", values)
    if broken:
        raise InputError(f"{folder}: {len(broken)} of {len(paths)} files are invalid; remove them")
    return (
        f"{len(paths)} files are valid, {views} images\n{_table(values)}\n"
        f"-> {folder / 'contact_sheet.png'}, {folder / 'histograms.png'}"
    )


def _image_statistics(images: np.ndarray) -> Statistics:
    return {
        "mean radiance of views": images[..., :3].mean(axis=(1, 2, 3)),
        "largest radiance of views": images[..., :3].max(axis=(1, 2, 3)),
        "coverage of views": images[..., 3].mean(axis=(1, 2)),
    }


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A linear image [H, H, 4] as uint8 [128, 128, 3], or smaller if the image is smaller."""
    step = max(1, image.shape[0] // THUMBNAIL)
    size = image.shape[0] // step
    blocks = image[: size * step, : size * step, :3].reshape(size, step, size, step, 3)
    return to_uint8(tone_map(np.ascontiguousarray(blocks.mean(axis=(1, 3))), "agx"))


def contact_sheet(thumbnails: list[np.ndarray]) -> np.ndarray:
    """Puts up to 64 thumbnails [h, h, 3] into rows of 8, and fills the last row with black."""
    same = [image for image in thumbnails if image.shape == thumbnails[0].shape]
    same = same[:SHEET_SIZE]
    same += [np.zeros_like(same[0])] * (-len(same) % SHEET_COLUMNS)
    rows = [same[i : i + SHEET_COLUMNS] for i in range(0, len(same), SHEET_COLUMNS)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _save_histograms(path: Path, values: Statistics) -> None:
    columns = 4
    rows = -(-len(values) // columns)
    figure = new_figure(3 * columns, 2.2 * rows)
    for axes, (name, data) in zip(
        figure.subplots(rows, columns).flat, values.items(), strict=False
    ):
        axes.hist(data, bins=40)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _table(values: Statistics) -> str:
    head = "".join(f"{name:>10}" for name in ("least", "quarter", "median", "three q.", "most"))
    lines = [f"{'':<28}{head}"]
    for name, data in values.items():
        numbers = "".join(f"{number:>10.4g}" for number in np.quantile(data, QUANTILES))
        lines.append(f"{name:<28}{numbers}")
    return "\n".join(lines)
