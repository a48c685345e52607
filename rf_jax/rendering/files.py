"""Scene files in, image files out: what `render.py` does."""

import collections
import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rf_jax.errors import InputError, listed, one_line, prefix_errors
from rf_jax.files import remove_abandoned
from rf_jax.images.comparison import comparison_image, with_titles
from rf_jax.images.files import VideoWriter, save_exr, save_png
from rf_jax.images.metrics import psnr
from rf_jax.images.tone_map import to_uint8, tone_map
from rf_jax.rendering.generations import save_scene
from rf_jax.rendering.renderer import Renderer, RunningViews, one_behind
from rf_jax.scene import find_scene_files
from rf_jax.scene.check import log_warnings
from rf_jax.scene.fit import Fit, apply_fit, find_fit
from rf_jax.scene.gltf.file import GLTF_SUFFIXES
from rf_jax.scene.ground_truth import load_ground_truth
from rf_jax.structs import Scene, SceneV2

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """What to render of each scene, and what to write."""

    output_dir: Path
    resolution: int | None = None  # None: of the first frame's ground truth, or the weights'
    views: str | None = None  # such as "0,2-4"; None: all
    batch_size: int = 1
    fit: bool = False
    tone_mapper: str = "none"
    save_h5: bool = False
    save_video: bool = False
    fps: float = 24.0


@dataclasses.dataclass
class RenderSummary:
    """What was done, how long it took, and how far the images are from ground truth.

    Attributes:
      triangles, views: how many were rendered, over all scenes.
      psnr: by the name of a job, the decibels of each view that was compared.
      uncompared: by the name of a job, the side of ground truth of another resolution.
      failed: the names of jobs that were not rendered, or not completely.
      seconds: wall time by phase.
    """

    triangles: int = 0
    views: int = 0
    psnr: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    uncompared: dict[str, int] = dataclasses.field(default_factory=dict)
    failed: list[str] = dataclasses.field(default_factory=list)
    seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        phases = ("loading", "compile", "view-independent", "view-dependent", "writing")
        seconds = ", ".join(f"{phase} {self.seconds[phase]:.2f} s" for phase in phases)
        return f"{self.triangles:,} triangles, {self.views} views: {seconds}"

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the wall time of the block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def comparison_lines(self) -> list[str]:
        """One line per job with its PSNR, and one that names the jobs that were not compared."""
        lines = [
            f"{one_line(name)}: PSNR {np.mean(values):.2f} dB against ground truth "
            f"({len(values)} views)"
            for name, values in self.psnr.items()
        ]
        if self.uncompared:
            sizes = [f"{name} ({side}x{side})" for name, side in self.uncompared.items()]
            lines.append(f"note: not compared, ground truth of another resolution: {listed(sizes)}")
        return lines


class Picture(NamedTuple):
    """A rendered view as it is shown, uint8 [H, W, 3], and what its ground truth says."""

    image: np.ndarray
    comparison: np.ndarray | None = None
    psnr: float | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """The scene files that one argument names: a single one, or the frames of an animation."""

    name: str
    files: tuple[Path, ...]

    @property
    def frame_names(self) -> list[str]:
        """The name that the images of each file begin with."""
        return [self.name] if len(self.files) == 1 else [file.stem for file in self.files]


def find_jobs(arguments: list[str]) -> tuple[list[Job], list[str]]:
    """Resolves paths and names of bundled scenes to jobs that write distinct files.

    Returns:
      the jobs, and the arguments that are no file, folder or bundled scene. The error of each of
      these has been logged.

    Raises:
      InputError: none of the arguments is a scene, or two scenes have the same name.
    """
    jobs, missing = [], []
    for argument in arguments:
        with _going_on(argument, missing, alone=len(arguments) == 1):
            jobs.append(_find_job(argument))
    if not jobs:
        raise InputError(f"none of the {len(arguments)} scenes was found")
    for names in (
        [job.name for job in jobs],
        [name for job in jobs for name in job.frame_names],
    ):
        name, count = collections.Counter(names).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} scenes are called {name!r}; render them into separate folders"
            )
    return jobs, missing


@contextlib.contextmanager
def _going_on(name: str, failed: list[str], alone: bool) -> Iterator[None]:
    """Logs an InputError and adds `name` to `failed`; if it is `alone`, the error goes through."""
    try:
        yield
    except InputError as error:
        if alone:
            raise
        _log.error("%s", error)
        failed.append(name)


def _find_job(argument: str) -> Job:
    files = tuple(find_scene_files(argument))
    path = Path(argument)
    if not path.exists():  # a bundled scene
        return Job(argument, files)
    path = path.resolve()
    return Job(path.name if path.is_dir() else path.stem, files)


def render_jobs(renderer: Renderer, jobs: list[Job], options: RenderOptions) -> RenderSummary:
    """Renders all scenes of all jobs and writes their images.

    Each view gives `NAME_view_0.exr` (linear float32) and `NAME_view_0.png` (tone mapped, 8 bit),
    and with ground truth of the same resolution `NAME_view_0_comparison.png`. NAME is the job's, or
    the file's in an animation. An animation, and with `save_video` any job, gives `NAME.mp4`, and
    `NAME_comparison.mp4` if all its views have ground truth.

    A job that fails does not stop the others: its error is logged.

    Raises:
      InputError: the only job fails, the resolution does not go with the network, or files of the
        output folder cannot be written or would take another meaning.
    """
    if options.resolution is not None:
        renderer.check_resolution(options.resolution)
    check_output_folder(options.output_dir)
    _check_truths_stay(jobs, options.output_dir)
    if options.save_h5:
        _check_sources_stay(jobs, options.output_dir)
    summary = RenderSummary()
    started = renderer.seconds.copy()
    with tqdm(unit="view", disable=None, leave=False) as progress:
        for job in jobs:
            pictures = _render_job(renderer, job, options, summary, progress)
            if options.save_video or len(job.files) > 1:
                pictures = _with_videos(pictures, job.name, options, summary)
            with _going_on(job.name, summary.failed, alone=len(jobs) == 1):
                decibels = [picture.psnr for picture in pictures]
                if compared := [value for value in decibels if value is not None]:
                    summary.psnr[job.name] = compared
    summary.seconds += renderer.seconds - started
    return summary


def check_output_folder(folder: Path) -> None:
    """Makes the folder; InputError, before any work is done, if it cannot be written.

    What killed processes left half-written there is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written; choose another --output_dir")
    remove_abandoned(folder)


def _check_truths_stay(jobs: list[Job], folder: Path) -> None:
    """Refuses images of a scene `x_truth`, which would count as the ground truth of a scene `x`."""
    names = {name for job in jobs for name in job.frame_names}
    for name in names:
        other = name.removesuffix("_truth")
        suffixes = (".json", ".h5", *GLTF_SUFFIXES)
        beside = any((folder / f"{other}{suffix}").exists() for suffix in suffixes)
        if other != name and (other in names or beside):
            raise InputError(
                f"{name}: its images would be taken for the ground truth of {other}; rename it, or "
                "render it alone into another --output_dir"
            )


def _check_sources_stay(jobs: list[Job], folder: Path) -> None:
    for job in jobs:
        for file, name in zip(job.files, job.frame_names, strict=True):
            if file.resolve() == (folder / f"{name}.h5").resolve():
                raise InputError(f"{file}: --save_h5 would replace it; choose another --output_dir")


class _Pending(NamedTuple):
    """Views that the device is working on.

    Attributes:
      file: the scene's file.
      names: the names that the files of each view begin with.
      running: what `Renderer.dispatch_views` yielded.
      truths: the ground truth of each view, or None.
    """

    file: Path
    names: list[str]
    running: RunningViews
    truths: list[np.ndarray | None]


def _render_job(renderer, job, options, summary, progress) -> Iterator[Picture]:
    """Renders the views of a job, and writes the files of each while the next one is rendered."""
    for pending in one_behind(_dispatch_job(renderer, job, options, summary, progress)):
        with prefix_errors(str(pending.file)):
            images = renderer.fetch(pending.running)
            for name, image, truth in zip(pending.names, images, pending.truths, strict=True):
                with summary.timed("writing"):
                    picture = _write_view(options, name, image[0], truth)
                progress.update()
                yield picture


def _dispatch_job(renderer, job, options, summary, progress) -> Iterator[_Pending]:
    """Loads the scenes of a job one after another, and begins to render their views."""
    resolution, warned, fit = options.resolution, set(), None
    for index, (file, name) in enumerate(zip(job.files, job.frame_names, strict=True)):
        with summary.timed("loading"):
            scene = renderer.load_scene(file)
            with prefix_errors(str(file)):
                views = select_views(options.views, len(scene.fov_degrees))
            truth = load_ground_truth(file, views)
        if options.fit:
            if fit is None:
                fit = _find_fit(scene, renderer, file)
                _log.info("%s: %s", name, fit)
            scene = apply_fit(scene, fit)
            truth = truth if truth is None else truth * np.float32(fit.emission)
        log_warnings(scene, renderer.trained_on, warned, f"{name}: ")
        # The first file decides for all of them, because a video has one size.
        default = renderer.trained_on.resolution if truth is None else truth.shape[1]
        resolution = resolution or default
        if truth is not None and truth.shape[1] != resolution:
            summary.uncompared[job.name], truth = truth.shape[1], None
        truths = [None] * len(views) if truth is None else list(truth)
        names = [f"{name}_view_{view}" for view in views]
        progress.total = summary.views + (len(job.files) - index) * len(views)
        progress.set_postfix_str(one_line(name, 60))
        with prefix_errors(str(file)):
            cameras = scene.camera_to_world[views], scene.fov_degrees[views]
            batches = renderer.dispatch_views(
                renderer.encode_scene(scene), *cameras, resolution, options.batch_size
            )
            for running in batches:
                count = running.count
                yield _Pending(file, names[:count], running, truths[:count])
                names, truths = names[count:], truths[count:]
        if options.save_h5:
            save_scene(scene, options.output_dir / f"{name}.h5")
        summary.triangles += len(scene.triangles)
        summary.views += len(views)


def _find_fit(scene: Scene | SceneV2, renderer: Renderer, file: Path) -> Fit:
    """How a scene becomes like those that the network knows; the frames after it share the fit."""
    with prefix_errors(str(file)):
        if isinstance(scene, SceneV2):
            raise InputError("--fit is for weights of V1; leave it out with weights of V2")
        return find_fit(scene, renderer.trained_on)


def select_views(text: str | None, count: int) -> list[int]:
    """Parses a list such as "0,2-4" into distinct view indices below `count`.

    None selects all views.

    Raises:
      InputError: another form of list, or an index out of range.
    """
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


def _write_view(
    options: RenderOptions, name: str, image: np.ndarray, truth: np.ndarray | None
) -> Picture:
    """Writes the files of one view, linear [H, H, C], with its ground truth [H, H, 3]."""
    folder = options.output_dir
    save_exr(folder / f"{name}.exr", image)
    image = image[..., :3]
    display = tone_map(image, options.tone_mapper)
    shown = to_uint8(display)
    save_png(folder / f"{name}.png", shown)
    if truth is None:
        return Picture(shown)
    comparison = with_titles(comparison_image(display, tone_map(truth, options.tone_mapper)))
    save_png(folder / f"{name}_comparison.png", comparison)
    return Picture(shown, comparison, float(psnr(image, truth)))


def _with_videos(
    pictures: Iterator[Picture], name: str, options: RenderOptions, summary: RenderSummary
) -> Iterator[Picture]:
    """Passes the pictures on, and encodes the videos of a job on the way."""
    paths = (options.output_dir / f"{name}{suffix}.mp4" for suffix in ("", "_comparison"))
    with contextlib.ExitStack() as videos:
        images, comparisons = (
            videos.enter_context(VideoWriter(path, options.fps)) for path in paths
        )
        for picture in pictures:
            with summary.timed("writing"):
                images.add(picture.image)
                if picture.comparison is None:
                    comparisons.discard()
                else:
                    comparisons.add(picture.comparison)
            yield picture
        with summary.timed("writing"):
            videos.close()
