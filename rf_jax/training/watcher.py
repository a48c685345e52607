"""What a run shows: curves and images for TensorBoard, lines on the console, a progress bar."""

import contextlib
import datetime
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from rf_jax.files import report_unwritable
from rf_jax.images.tone_map import to_uint8, tone_map
from rf_jax.models.flops import context_flops, view_flops, view_independent_flops
from rf_jax.radiance import linear_radiance
from rf_jax.training.config import TrainingConfig

BACKWARD_FACTOR = 3
"""Cost of a training step in forward passes: the forward pass itself, and a backward pass that
costs about two."""


class Watcher:
    """Writes what a run shows on process 0, and does nothing on others.

    Attributes:
      writing: whether this process writes.

    Raises an InputError when the disk is full.
    """

    def __init__(self, workdir: Path, config: TrainingConfig, start: int, product_rate: float):
        """Opens the event file.

        Args:
          workdir: the run's folder.
          config: its configuration.
          start: the step that it starts or continues from.
          product_rate: FLOP/s that matrix products reach on all devices together.
        """
        self.writing = jax.process_index() == 0
        self._workdir, self._config, self._product_rate = workdir, config, product_rate
        self._since, self._since_step, self._waited = time.perf_counter(), start, 0.0
        if self.writing:
            # tensorboardX's SummaryWriter would write in a thread: what it has not written yet when
            # the process is killed is lost, and nobody learns of a full disk.
            folder = workdir / "tensorboard"
            with report_unwritable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self._events = EventsWriter(str(folder / "events"), f".{start:08}")
            # TensorBoard then drops what an interrupted run wrote after its last checkpoint.
            self._write(start + 1, session_log=SessionLog(status=SessionLog.START))
            self._bar = tqdm(
                total=config.total_steps, initial=start, unit="step", disable=None, leave=False
            )

    def started(self, step: int, parameters: int, devices: int) -> None:
        """Prints what is about to run.

        Args:
          step: the step that the run starts or continues from.
          parameters: number of parameters of the network.
          devices: number of devices of all processes.
        """
        config, processes = self._config, jax.process_count()
        self._print(
            f"parameters: {parameters:,}; devices: {devices} ({jax.default_backend()}), "
            f"{devices // processes} per process; scenes per step: {config.batch_size}, "
            f"{config.batch_size // devices} per device"
        )
        if step >= config.total_steps:
            self._print(f"finished before, after {step} steps; config.total_steps can be raised")
            return
        self._print(
            f"steps {step + 1} to {config.total_steps}; to watch: tensorboard --logdir "
            f"{self._workdir}"
        )

    def ended(self, step: int) -> None:
        """Prints how far the run came, after its last checkpoint was written."""
        if step >= self._config.total_steps:
            self._print(f"finished after {step} steps: {self._workdir}")
        else:
            self._print(f"stopped and saved after step {step}; the same command continues the run")

    def advance(self, waited: float) -> None:
        """Notes that a step was started, whose batch took `waited` seconds to arrive."""
        self._waited += waited
        if self.writing:
            self._bar.update()

    def training(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of step number `step`, and the speed since the last call."""
        seconds, steps = time.perf_counter() - self._since, step - self._since_step
        rate = steps / max(seconds, 1e-9)
        speed = {
            "steps_per_second": rate,
            "images_per_second": rate * self._config.batch_size * self._config.data.views,
            "input_wait": self._waited / max(seconds, 1e-9),
        }
        flops = rate * step_flops(self._config, metrics["triangles"])
        speed |= {"tflops": flops / 1e12, "fraction_of_products": flops / self._product_rate}
        self._since, self._since_step, self._waited = time.perf_counter(), step, 0.0
        self._scalars("train", step, metrics)
        self._scalars("speed", step, speed)
        left = datetime.timedelta(seconds=round((self._config.total_steps - step) / rate))
        skipped = int(metrics["nonfinite_steps"]), int(metrics["skipped_scenes"])
        self._print(
            f"step {step} of {self._config.total_steps}: loss {metrics['loss']:.5f}, "
            f"PSNR {metrics['psnr']:.2f} dB, gradient {metrics['gradient_norm']:.3g}, "
            f"rate {metrics['learning_rate']:.3g}, {speed['images_per_second']:.1f} images/s, "
            f"input wait {speed['input_wait']:.0%}, {left} left"
            + (f", skipped {skipped[0]} steps, {skipped[1]} files" if any(skipped) else "")
        )

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a validation after step number `step`."""
        self._scalars("validation", step, metrics)
        lpips = f"{metrics['lpips']:.4f}" if "lpips" in metrics else "unavailable (weight 0)"
        self._print(
            f"step {step} of {self._config.total_steps}: validation PSNR {metrics['psnr']:.2f} dB, "
            f"SSIM {metrics['ssim']:.4f}, LPIPS {lpips}"
        )

    def images(self, name: str, step: int, prediction: np.ndarray, target: np.ndarray) -> None:
        """Writes pairs of log10(1 + radiance) images [B, H, H, 3] as one grid."""
        if self.writing:
            grid = to_uint8(image_grid(prediction[:8], target[:8]))
            tag = f"{name}/prediction_truth"
            self._write(step, summary=summary.image(tag, grid, dataformats="HWC"))

    def close(self) -> None:
        if self.writing:
            self._bar.close()
            with contextlib.suppress(OSError):  # everything was written before
                self._events.close()

    def _scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary=summary.scalar(f"{group}/{name}", value))

    def _write(self, step: int, **content: Any) -> None:
        """Writes one event; it is in the file when this returns."""
        if self.writing:
            event = Event(step=step, wall_time=time.time(), **content)
            with report_unwritable(self._workdir / "tensorboard"):
                self._events.write_event(event)
                self._events.flush()

    def _print(self, line: str) -> None:
        if self.writing:
            tqdm.write(line)


def image_grid(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Predictions above their ground truth, tone mapped by AgX.

    Args:
      prediction, target: [B, H, H, 3] log10(1 + radiance).

    Returns:
      [2 H, B H, 3] display values.
    """
    rows = []
    for images in (prediction, target):
        linear = np.asarray(linear_radiance(jnp.asarray(images)), np.float32)
        rows.append(np.concatenate([tone_map(np.maximum(x, 0), "agx") for x in linear], axis=1))
    return np.concatenate(rows, axis=0)


def step_flops(config: TrainingConfig, triangles: float) -> float:
    """Floating-point operations of a training step, without those of LPIPS.

    Args:
      config: the run.
      triangles: mean number of triangles per scene.
    """
    model, count = config.model, round(float(triangles))
    side = config.data.crop or config.data.resolution
    scene = view_independent_flops(model, count) + context_flops(model, count)
    views = config.data.views * view_flops(model, count, side)
    return BACKWARD_FACTOR * config.batch_size * (scene + views)


def git_revision() -> str:
    """The revision of the code, with "-dirty" if it was changed; "unknown" outside a repository."""
    try:
        # Without the option git would write to its index, and lock it for good when it is killed.
        command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
        folder = Path(__file__).parent
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
