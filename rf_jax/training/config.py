"""The configuration of a training run: typed, checked, and read from `configs/*.py`."""

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
    """The training data, and what is read from it.

    Attributes:
      path: folder of .h5 files with images (`img`); its index.jsonl, if there is one, names the
        splits.
      validation_path: another folder, all of which is validated on; None takes the "val" split of
        `path`.
      resolution: image side in pixels of all files.
      max_triangles: N, the number of triangles that scenes are padded to.
      shorter_lengths: smaller numbers that scenes are padded to where they fit, ascending; a batch
        then has scenes of about the same length. Each length compiles a program of its own. Needs
        the index.jsonl of data generation. None pads all to `max_triangles`.
      views: number of views per step and scene, drawn without replacement.
      crop: side in pixels of the square part of each view that is trained on; None trains on whole
        images.
      oversize: "skip" skips and counts scenes of more than `max_triangles`; "error" ends the run.
      constant_textures: whether the network reads one value per triangle, or texture patches of its
        `texture_encode_patch_size`.
      augment: whether to move each scene by a random rigid motion.
      workers: number of processes that read files; 0 reads in a thread.
      prefetch: number of batches that are read ahead.
      max_skipped_fraction: largest share of unusable files among all files read so far; a larger
        one ends the run.
    """

    path: str = "data/tiny"
    validation_path: str | None = None
    resolution: Positive = 256
    max_triangles: Positive = 1536
    shorter_lengths: tuple[Positive, ...] | None = None
    views: Positive = 2
    crop: Positive | None = None
    oversize: Literal["skip", "error"] = "skip"
    constant_textures: bool = True
    augment: bool = True
    workers: NonNegativeInt = 8
    prefetch: Positive = 2
    max_skipped_fraction: Fraction = 0.1

    @property
    def lengths(self) -> tuple[int, ...]:
        """All numbers of triangles that scenes are padded to, ascending."""
        return (*(self.shorter_lengths or ()), self.max_triangles)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
      seed: seed of the weights, the order of the data, views, crops, motions and the random
        constants of attention functions.
      total_steps: number of steps, including those before the run was resumed.
      batch_size: number of scenes per step on all devices together; each has `data.views` images.
      accumulation_steps: number of parts that a batch is computed in, one after the other, to need
        less memory.
      precision: type of matrix products; parameters, losses and the optimizer are float32.
      remat: whether the gradient computes layers again instead of storing what is inside them.
      fsdp: number of devices that parameters and optimizer state are split over. If there are more
        devices, each group of this many holds a copy.
      optimizer: "adamw", as published, or "muon", which learns more per step.
      learning_rate: peak of the learning rate, reached linearly from 0.
      warmup_steps: number of steps before the peak.
      cosine_steps: number of steps of the cosine after the peak.
      final_learning_rate_factor: the cosine ends at this factor times the peak, and the learning
        rate stays there.
      weight_decay: factor of the weight decay.
      decay: what decays: "matrices", or "all" parameters (as published).
      grad_clip_norm: largest norm of the whole gradient; a larger one is scaled down to it.
      max_nonfinite_in_a_row: largest number of steps in a row without a finite gradient; more end
        the run.
      ema_decay: decay per step of the averaged parameters, which are validated and saved; 0 does
        not average.
      lpips_weight: weight of the perceptual term in the loss; 0 leaves it out.
      lpips_weights: folder with vgg16_weights.h5 and lpips_lin.h5; None takes those of the hub.
      performer_redraw_every_steps: how often random constants of attention functions, such as the
        projections of the Performer, are drawn anew; 0 keeps them.
      init_from: weights to start from: a checkpoint, workdir, Hugging Face folder or hub id.
      init_lenient: whether to take the weights that fit and log the others, instead of refusing.
      log_every_steps: how often metrics are written.
      image_every_steps: how often images of the training batch are written.
      validate_every_steps: how often the run is validated; it also is after its last step.
      validation_scenes: largest number of scenes to validate on.
      checkpoint_every_steps: how often the state is saved; it also is at each validation.
      keep_last: number of last checkpoints that are kept, besides the best one.
      data: the data.
      model: the network.
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
        if self.model.v2 is not None:
            raise InputError("model: RenderFormer V2 is rendered here, but not trained")
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
        _check(
            self.data.lengths == tuple(sorted(set(self.data.lengths))),
            "data.shorter_lengths",
            f"ascending numbers below max_triangles {self.data.max_triangles}",
            self.data.shorter_lengths,
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
"""Keys that a resumed run may change: where things are, how they are computed or watched, and how
long the run is."""

_PER_HOST = {
    "init_from",
    "lpips_weights",
    "data.path",
    "data.validation_path",
    "data.workers",
    "data.prefetch",
}
"""Keys that the processes of a run may have their own values of: where things are on their host."""


def default_config(model: RenderFormerConfig) -> ConfigDict:
    """All keys with their defaults, for `configs/*.py` to change.

    Args:
      model: the network, whose fields are the defaults of `config.model`.
    """
    return to_config_dict(TrainingConfig(model=model))


def check_continues(config: TrainingConfig, workdir: Path) -> None:
    """Checks that a run may continue the one in a workdir.

    Raises:
      InputError: the workdir belongs to another configuration; the message names the keys that
        differ.
    """
    path = workdir / TRAINING_CONFIG_NAME
    if not path.exists():
        return
    old = _flatten(schema.to_dict(parse_config(TrainingConfig, read_json(path))))
    new = _flatten(schema.to_dict(config))
    differing = [key for key in new if old[key] != new[key] and key not in _MAY_CHANGE]
    if differing:
        listed = ", ".join(f"{key} was {old[key]!r}, is {new[key]!r}" for key in differing)
        raise InputError(f"{workdir}: holds a run of another config ({listed}); choose another")


def common_values(config: TrainingConfig) -> dict[str, Any]:
    """The values that all processes of a run must share, by names such as "config.batch_size"."""
    return {
        f"config.{key}": value
        for key, value in _flatten(schema.to_dict(config)).items()
        if key not in _PER_HOST
    }


def save_config(config: TrainingConfig, workdir: Path) -> None:
    """Writes the configuration into a workdir."""
    with atomic_path(workdir / TRAINING_CONFIG_NAME) as temporary:
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
