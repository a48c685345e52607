"""Converts RenderFormer weights between PyTorch files and rf_jax checkpoints.

Examples:

    %(prog)s microsoft/renderformer-v1-base checkpoints/v1_base
    %(prog)s fork.pt checkpoints/fork --model_config config.json
    %(prog)s --to_torch checkpoints/v1_base exported/
    %(prog)s --to_torch --half workdirs/rooms exported/
    %(prog)s --latent_encoders RenderFormer/renderformer-v2 checkpoints/v2_encoders
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from rf_jax.command_line import make_parser
from rf_jax.errors import InputError
from rf_jax.models.material_mapper import PARAMETERS
from rf_jax.weights.checkpoint import save_checkpoint
from rf_jax.weights.latent_encoders import VAE_SOURCE, read_published, save_latent_encoders
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
    parser.add_argument(
        "--latent_encoders",
        action="store_true",
        help="convert the networks that prepare scenes for RenderFormer V2: SOURCE has the folders "
        f"{', '.join(PARAMETERS)}",
    )
    parser.add_argument(
        "--vae",
        default=VAE_SOURCE,
        help="the folder or hub id of the Qwen-Image autoencoder, for --latent_encoders",
    )
    return parser.parse_args()


def to_half(leaf: np.ndarray) -> np.ndarray:
    largest = float(np.abs(leaf).max())
    if not largest <= float(np.finfo(np.float16).max):
        raise InputError(f"--half: a parameter of {largest:.3g} is beyond float16")
    return np.asarray(leaf, np.float16)


def convert_latent_encoders(args: argparse.Namespace) -> None:
    if args.to_torch or args.half or args.model_config:
        raise InputError("--latent_encoders goes with --vae only, not with other options")
    networks = read_published(args.source, args.vae)
    save_latent_encoders(args.destination, networks)
    for name, network in networks.items():
        print(f"{args.destination}: {name}, {num_parameters(network.variables):,} parameters")


def main() -> None:
    args = parse_args()
    if args.latent_encoders:
        convert_latent_encoders(args)
        return
    variables, _, values = load_pretrained(args.source, args.model_config)
    if args.half:
        variables = variables | {"params": jax.tree.map(to_half, variables["params"])}
    save = save_hugging_face_folder if args.to_torch else save_checkpoint
    save(args.destination, variables, values)
    print(f"{args.destination}: {num_parameters(variables):,} parameters from {args.source}")
