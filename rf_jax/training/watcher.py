"""What a run shows: curves and images for TensorBoard, lines on the console, a progress bar."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
from tqdm import tqdm

from rf_jax.images.radiance import linear_radiance
from rf_jax.images.tone_map import to_uint8, tone_map
from rf_jax.models.flops import context_flops, view_flops, view_independent_flops
from rf_jax.training.config import TrainingConfig

BACKWARD_FACTOR = 3
"""Cost of a training step in forward passes: the forward pass itself, and a backward pass that
costs about two."""


class Watcher:
    """Writes what a run shows on process 0, and does nothing on others.

    Attributes:
      writing: whether this process writes.
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
        self._config, self._product_rate = config, product_rate
        self._since, self._since_step, self._waited = time.perf_counter(), start, 0.0
        if self.writing:
            # TensorBoard then drops what an interrupted run wrote after its last checkpoint.
            self._writer = tensorboardX.SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start
            )
            self._bar = tqdm(
                total=config.total_steps, initial=start, unit="step", disable=None, leave=False
            )

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
        skipped = int(metrics["nonfinite_steps"]), int(metrics["skipped_scenes"])
        self._print(
            f"step {step}: loss {metrics['loss']:.5f}, PSNR {metrics['psnr']:.2f} dB, "
            f"gradient {metrics['gradient_norm']:.3g}, rate {metrics['learning_rate']:.3g}, "
            f"{speed['images_per_second']:.1f} images/s, input wait {speed['input_wait']:.0%}"
            + (f", skipped {skipped[0]} steps, {skipped[1]} files" if any(skipped) else "")
        )

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a validation after step number `step`."""
        self._scalars("validation", step, metrics)
        lpips = f"{metrics['lpips']:.4f}" if "lpips" in metrics else "unavailable (weight 0)"
        self._print(
            f"step {step}: validation PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}, "
            f"LPIPS {lpips}"
        )

    def images(self, name: str, step: int, prediction: np.ndarray, target: np.ndarray) -> None:
        """Writes pairs of log10(1 + radiance) images [B, H, H, 3] as one grid."""
        if self.writing:
            grid = to_uint8(image_grid(prediction[:8], target[:8]))
            self._writer.add_image(f"{name}/prediction_truth", grid, step, dataformats="HWC")

    def close(self) -> None:
        if self.writing:
            self._writer.close()
            self._bar.close()

    def _scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self.writing:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()

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
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        folder = Path(__file__).parent
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
