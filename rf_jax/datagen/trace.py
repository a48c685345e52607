"""Path-traces ground truth for existing scene files."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.path_tracer import check_renderer, make_path_tracer
from rf_jax.errors import InputError, one_line
from rf_jax.images.files import save_exr
from rf_jax.processes import cpu_count
from rf_jax.scene import load_scene
from rf_jax.scene.ground_truth import ground_truth_path


def trace_files(files: list[Path], config: RenderConfig, folder: Path | None) -> list[Path]:
    """Renders all views of scene files to half-float EXRs of linear RGB.

    Args:
      files: JSON or HDF5 scenes.
      config: settings of Mitsuba.
      folder: folder for `NAME_truth_view_0.exr` and so on; None puts each image beside its scene
        file.

    Returns:
      the paths of the images.

    Raises:
      InputError: a scene is invalid, Mitsuba is missing or cannot render it, or a file cannot be
        written.
    """
    tracer = make_path_tracer(config, check_renderer(config, None), None, cpu_count())
    written = []
    for index, path in enumerate(tqdm(files, unit="scene", disable=None, leave=False)):
        scene = load_scene(path)
        if scene.texture.ndim != 2:
            found = list(scene.texture.shape)
            raise InputError(f"{path}: texture: expected one value per triangle, found {found}")
        # The same noise in all frames would look like dirt on the lens
        seed = int(np.random.SeedSequence(index).generate_state(1)[0])
        try:
            images = tracer.render(scene, seed)
        except (RuntimeError, ValueError, MemoryError) as error:  # what Mitsuba raises
            raise InputError(
                f"{path}: Mitsuba cannot render it ({one_line(error, 120)})"
            ) from error
        for view, image in enumerate(images):
            written.append(ground_truth_path(path, view, folder))
            save_exr(written[-1], image[..., :3], half=True)
    return written
