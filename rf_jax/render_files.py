"""Scene files in, image files out: what `render.py` does."""

import collections
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rf_jax.errors import InputError, prefix_errors
from rf_jax.image_io import save_exr, save_png, save_video
from rf_jax.preprocess import batched
from rf_jax.rendering import Renderer
from rf_jax.scene import (
    bundled_scene,
    bundled_scene_names,
    find_scene_files,
    load_scene,
    save_h5,
)
from rf_jax.structs import Scene
from rf_jax.tone_map import to_uint8, tone_map


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """What to render of each scene, and what to write."""

    output_dir: Path
    resolution: int
    views: str | None = None  # such as "0,2-4"; None: all
    batch_size: int = 1
    tone_mapper: str = "none"
    save_h5: bool = False
    save_video: bool = False
    fps: float = 24.0


@dataclasses.dataclass
class RenderSummary:
    """What was done, and the seconds it took by phase."""

    triangles: int = 0
    views: int = 0
    seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        phases = ("loading", "compile", "view-independent", "view-dependent", "writing")
        seconds = ", ".join(f"{phase} {self.seconds[phase]:.2f} s" for phase in phases)
        return f"{self.triangles:,} triangles, {self.views} views: {seconds}"


@dataclasses.dataclass(frozen=True)
class Job:
    """The scenes that one argument names: a file, or the files of an animation."""

    name: str
    files: tuple[Path, ...]

    @property
    def frame_names(self) -> list[str]:
        """What the images of each file are called."""
        return [self.name] if len(self.files) == 1 else [file.stem for file in self.files]


def find_jobs(arguments: list[str]) -> list[Job]:
    """Resolves paths, and names of bundled scenes, to jobs whose images and videos are distinct.

    Raises:
      InputError: no such file, folder or bundled scene; two scenes of the same name.
    """
    jobs = [_find_job(argument) for argument in arguments]
    for names in (
        [job.name for job in jobs],
        [name for job in jobs for name in job.frame_names],
    ):
        name, count = collections.Counter(names).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} scenes are called {name!r}; render them into separate folders"
            )
    return jobs


def _find_job(argument: str) -> Job:
    path = Path(argument)
    if path.exists():
        files = tuple(find_scene_files(path))
        path = path.resolve()
        return Job(path.name if path.is_dir() else path.stem, files)
    if argument in bundled_scene_names():
        return Job(argument, (bundled_scene(argument),))
    raise InputError(
        f"{argument}: no such scene file or folder, nor a bundled scene "
        f"({', '.join(bundled_scene_names())})"
    )


def render_jobs(renderer: Renderer, jobs: list[Job], options: RenderOptions) -> RenderSummary:
    """Renders all scenes of all jobs and writes their images.

    Per view `NAME_view_0.exr` (linear float32) and `.png` (tone mapped, 8 bit); NAME is the job's,
    or the file's in an animation. With `save_video` one `NAME.mp4` a job.

    Raises:
      InputError: bad scenes, resolutions or views, or an output folder that cannot be written.
    """
    renderer.check_resolution(options.resolution)
    check_output_folder(options.output_dir)
    if options.save_h5:
        _check_sources_stay(jobs, options.output_dir)
    summary = RenderSummary()
    started = renderer.seconds.copy()
    with tqdm(unit="view", disable=None, leave=False) as progress:
        for job in jobs:
            frames = _render_job(renderer, job, options, summary, progress)
            if options.save_video:
                path = options.output_dir / f"{job.name}.mp4"
                save_video(path, frames, options.fps)
            else:
                collections.deque(frames, maxlen=0)
    summary.seconds += renderer.seconds - started
    return summary


def check_output_folder(folder: Path) -> None:
    """Makes the folder; one that cannot be written is an InputError before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written; choose another --output_dir")


def _check_sources_stay(jobs: list[Job], folder: Path) -> None:
    for job in jobs:
        for file, name in zip(job.files, job.frame_names, strict=True):
            if file.resolve() == (folder / f"{name}.h5").resolve():
                raise InputError(f"{file}: --save_h5 would replace it; choose another --output_dir")


def _render_job(renderer, job, options, summary, progress) -> Iterator[np.ndarray]:
    """Yields the 8-bit images of a job as their files are written."""
    for index, (file, name) in enumerate(zip(job.files, job.frame_names, strict=True)):
        start = time.perf_counter()
        scene = load_scene(file)
        summary.seconds["loading"] += time.perf_counter() - start
        with prefix_errors(str(file)):
            views = select_views(options.views, len(scene.fov_degrees))
            remaining = (len(job.files) - index) * len(views)
            progress.total = progress.n + remaining
            progress.set_postfix_str(name)
            images = render_scene(renderer, scene, views, options)
            for view, image in zip(views, images, strict=True):
                start = time.perf_counter()
                yield _write_view(options, f"{name}_view_{view}", image)
                summary.seconds["writing"] += time.perf_counter() - start
                progress.update()
        if options.save_h5:
            save_h5(scene, options.output_dir / f"{name}.h5")
        summary.triangles += len(scene.triangles)
        summary.views += len(views)


def render_scene(
    renderer: Renderer, scene: Scene, views: list[int], options: RenderOptions
) -> Iterator[np.ndarray]:
    """Linear images [H, W, C] of the chosen views of a scene that is not batched."""
    encoding = renderer.encode_scene(scene)
    scene = batched(scene)
    cameras = scene.camera_to_world[:, views], scene.fov_degrees[:, views]
    for image in renderer.render_views(encoding, *cameras, options.resolution, options.batch_size):
        yield image[0]


def select_views(text: str | None, count: int) -> list[int]:
    """Parses "0,2-4" into distinct view indices below `count`; None selects all."""
    if text is None:
        return list(range(count))
    views = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise InputError(f'views: expected a list such as "0,2-4", found {text!r}')
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise InputError(
                f"views: expected ascending indices from 0 to {count - 1}, found {text!r}"
            )
        views += range(first, last + 1)
    return list(dict.fromkeys(views))


def _write_view(options: RenderOptions, name: str, image: np.ndarray) -> np.ndarray:
    save_exr(options.output_dir / f"{name}.exr", image)
    display = to_uint8(tone_map(image[..., :3], options.tone_mapper))
    save_png(options.output_dir / f"{name}.png", display)
    return display
