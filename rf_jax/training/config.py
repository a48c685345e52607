"""What a training run is made of: typed, checked configuration, read from `configs/*.py`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from rf_jax import schema
from rf_jax.config_files import parse_config, to_config_dict
from rf_jax.errors import InputError
from rf_jax.files import atomic_path, read_json
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.schema import Fraction, NonNegative, NonNegativeInt, Positive, Seed

TRAINING_CONFIG_NAME = "training_config.json"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read of the data.

    Attributes:
      path: a folder of .h5 files with `img`; its index.jsonl, if any, names the splits.
      validation_path: another folder, validated on whole; None: the "val" split of `path`.
      resolution: image side in pixels of all files.
      max_triangles: N, the length that scenes are padded to.
      views: drawn of each scene without replacement.
      crop: side of the square part of each view that is trained on; None: whole images.
      oversize: scenes of more triangles are skipped and counted, or stop the run.
      constant_textures: a triangle has one value; else patches of the network's size.
      augment: move each scene by a random rigid motion.
      workers: processes that read; 0 reads in a thread.
      prefetch: batches read ahead.
      max_skipped_fraction: of all scenes read so far; more unusable files stop the run.
    """

    path: str = "data/tiny"
    validation_path: str | None = None
    resolution: Positive = 256
    max_triangles: Positive = 1536
    views: Positive = 2
    crop: Positive | None = None
    oversize: Literal["skip", "error"] = "skip"
    constant_textures: bool = True
    augment: bool = True
    workers: NonNegativeInt = 8
    prefetch: Positive = 2
    max_skipped_fraction: Fraction = 0.1


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
      seed: of the weights, the order of the data, views, motions and projections.
      batch_size: scenes of a step, over all devices; each has `data.views` images.
      accumulation_steps: parts that a batch is computed in, for less memory.
      precision: of matrix products; parameters, losses and the optimizer are float32.
      remat: compute layers again for the gradient instead of storing them.
      fsdp: devices that parameters and optimizer state are split over; the others replicate.
      optimizer: AdamW as published, or Muon, which learns more of a step.
      learning_rate: at its peak, after warmup_steps; then a cosine of cosine_steps ends at
        final_learning_rate_factor times the peak, and stays there.
      weight_decay: of the matrices, or of all parameters (as published).
      grad_clip_norm: largest norm of the whole gradient.
      max_nonfinite_in_a_row: more steps without a finite gradient stop the run.
      ema_decay: of the averaged parameters that are validated and saved; 0: none.
      lpips_weight: of the perceptual term; 0: none.
      lpips_weights: a folder with vgg16_weights.h5 and lpips_lin.h5; None: the hub's.
      performer_redraw_every_steps: new random projections; 0: never.
      init_from: weights to start from (checkpoint, workdir, Hugging Face folder or hub id).
      init_lenient: take what fits of them and list the rest, instead of refusing.
      validation_scenes: at most so many are validated on.
      keep_last: checkpoints kept, besides the best.
    """

    seed: Seed = 0
    total_steps: Positive = 1000
    batch_size: Positive = 8
    accumulation_steps: Positive = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    remat: bool = False
    fsdp: Positive = 1

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: NonNegative = 1e-4
    warmup_steps: NonNegativeInt = 8000
    cosine_steps: Positive = 492_000
    final_learning_rate_factor: Fraction = 0.01
    weight_decay: NonNegative = 0.01
    decay: Literal["matrices", "all"] = "matrices"
    grad_clip_norm: NonNegative = 1.0
    max_nonfinite_in_a_row: Positive = 20
    ema_decay: Fraction = 0.0

    lpips_weight: NonNegative = 0.05
    lpips_weights: str | None = None
    performer_redraw_every_steps: NonNegativeInt = 0

    init_from: str | None = None
    init_lenient: bool = False

    log_every_steps: Positive = 20
    image_every_steps: Positive = 500
    validate_every_steps: Positive = 4000
    validation_scenes: Positive = 64
    checkpoint_every_steps: Positive = 500
    keep_last: Positive = 3

    data: DataConfig = DataConfig()
    model: RenderFormerConfig = VARIANTS["v1_base"]

    def __post_init__(self):
        schema.check_fields(self)
        schema.check_fields(self.data)
        parts = self.accumulation_steps
        _check(
            self.batch_size % parts == 0,
            "accumulation_steps",
            f"a divisor of batch_size {self.batch_size}",
            parts,
        )
        self._check_images()

    def _check_images(self):
        model, multiple = self.model, self.model.resolution_multiple
        for name in ("resolution", "crop"):
            side = getattr(self.data, name)
            good = side is None or (side >= multiple and side % multiple == 0)
            _check(good, f"data.{name}", f"a positive multiple of {multiple}", side)
        crop = self.data.crop
        _check(
            crop is None or crop <= self.data.resolution, "data.crop", "at most resolution", crop
        )
        _check(not model.use_ldr, "model.use_ldr", "False to train (radiance is HDR)", True)
        _check(not model.include_alpha, "model.include_alpha", "False to train", True)


_MAY_CHANGE = {
    "accumulation_steps",
    "fsdp",
    "remat",
    "log_every_steps",
    "image_every_steps",
    "validate_every_steps",
    "validation_scenes",
    "checkpoint_every_steps",
    "keep_last",
    "lpips_weights",
    "max_nonfinite_in_a_row",
    "total_steps",
    "init_from",
    "data.path",
    "data.validation_path",
    "data.workers",
    "data.prefetch",
    "data.max_skipped_fraction",
}
"""Keys that a resumed run may change: where things are and how they are computed or watched."""


def default_config(model: RenderFormerConfig) -> ConfigDict:
    """All keys with their defaults, for `configs/*.py` and `--config.KEY=VALUE` to change."""
    return to_config_dict(TrainingConfig(model=model))


def save_or_compare(config: TrainingConfig, workdir: Path) -> None:
    """Writes the configuration into a new workdir, or checks that it continues the one there.

    Raises:
      InputError: the workdir belongs to another configuration; names the keys that differ.
    """
    path = workdir / TRAINING_CONFIG_NAME
    if path.exists():
        old = _flatten(schema.to_dict(parse_config(TrainingConfig, read_json(path))))
        new = _flatten(schema.to_dict(config))
        differing = [key for key in new if old[key] != new[key] and key not in _MAY_CHANGE]
        if differing:
            listed = ", ".join(f"{key} was {old[key]!r}, is {new[key]!r}" for key in differing)
            raise InputError(f"{workdir}: holds a run of another config ({listed}); choose another")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(schema.to_dict(config), indent=2) + "\n")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _check(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise InputError(f"{name}: expected {expected}, found {found!r}")
