"""Converts RenderFormer weights between PyTorch files and rf_jax checkpoints.

Examples:

    %(prog)s microsoft/renderformer-v1-base checkpoints/v1_base
    %(prog)s fork.pt checkpoints/fork --model_config config.json
    %(prog)s --to_torch checkpoints/v1_base exported/
    %(prog)s --to_torch --half workdirs/rooms exported/
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from rf_jax.command_line import make_parser
from rf_jax.errors import InputError
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.pretrained import load_pretrained, num_parameters, save_hugging_face_folder


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "source",
        help="a Hugging Face folder (config.json and model.safetensors), a hub id "
        "(microsoft/renderformer-v1-base, microsoft/renderformer-v1.1-swin-large), a .pt file of "
        "the Performer fork, an rf_jax checkpoint, or a training directory",
    )
    parser.add_argument("destination", type=Path, help="folder to write to")
    parser.add_argument(
        "--model_config",
        type=Path,
        help="config.json for a .pt file, which contains none (default: the folder's)",
    )
    parser.add_argument(
        "--to_torch",
        action="store_true",
        help="write a Hugging Face folder for PyTorch instead of an rf_jax checkpoint",
    )
    parser.add_argument(
        "--half", action="store_true", help="round parameters to float16, which halves the size"
    )
    return parser.parse_args()


def to_half(leaf: np.ndarray) -> np.ndarray:
    largest = float(np.abs(leaf).max())
    if not largest <= float(np.finfo(np.float16).max):
        raise InputError(f"--half: a parameter of {largest:.3g} is beyond float16")
    return np.asarray(leaf, np.float16)


def main() -> None:
    args = parse_args()
    variables, _, values = load_pretrained(args.source, args.model_config)
    if args.half:
        variables = variables | {"params": jax.tree.map(to_half, variables["params"])}
    save = save_hugging_face_folder if args.to_torch else save_checkpoint
    save(args.destination, variables, values)
    print(f"{args.destination}: {num_parameters(variables):,} parameters from {args.source}")
