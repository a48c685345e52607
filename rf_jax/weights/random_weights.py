"""Random weights where every parameter changes the output, for smoke pictures, tests and timings.

    %(prog)s DST [--variant NAME] [--seed N]

writes a Hugging Face folder of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.models.encodings import rope_frequencies
from rf_jax.weights import convert
from rf_jax.weights.pretrained import save_hugging_face_folder


def random_variables(config: RenderFormerConfig, seed: int) -> dict[str, Any]:
    """Draws Flax variables in float32.

    Kernels are N(0, 1 / fan_in), gains N(1, 0.1^2), biases N(0, 0.1^2), and RoPE frequencies those
    of a fresh network. Everything else (tokens, the variables of attention functions) is N(0, 1).
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in sorted(convert.variable_shapes(config).items()):
        name = path.split("/")[-1]
        value = rng.standard_normal(shape, np.float32)
        if name == "kernel":
            stacked = "/layers/" in path or "/context/" in path
            value *= (np.prod(shape[stacked:-1])) ** -0.5
        elif name == "scale":
            value = 1 + 0.1 * value
        elif name == "bias":
            value *= 0.1
        elif name == "rope_frequencies":
            value = rope_frequencies(2 * shape[0], config.rope_double_max_freq)
        leaves[path] = value.astype(np.float32)
    return traverse_util.unflatten_dict(leaves, sep="/")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("destination", type=Path, help="folder to write")
    parser.add_argument("--variant", choices=VARIANTS, default="testing", help="network to fill")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    args = parser.parse_args()
    config = VARIANTS[args.variant]
    variables = random_variables(config, args.seed)
    save_hugging_face_folder(args.destination, variables, config.to_dict())


if __name__ == "__main__":
    run_command_line(main)
