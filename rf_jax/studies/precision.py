"""How far images in bf16 and fp16 are from those in fp32, on one scene.

    %(prog)s                                          # random weights
    %(prog)s blue_room --checkpoint rf_jax/assets/models/rooms

prints one line per precision.
"""

import numpy as np

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.images.metrics import psnr
from rf_jax.models import VARIANTS
from rf_jax.radiance import log_radiance
from rf_jax.rendering.generations import require_v1
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene import load_scene
from rf_jax.weights.pretrained import load_pretrained
from rf_jax.weights.random_weights import random_variables


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "scene",
        nargs="?",
        default="cornell_box",
        help="file or bundled scene",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint", help="weights, as for rf-jax-render (default: random ones)"
    )
    weights.add_argument(
        "--variant", choices=VARIANTS, default="v1_base", help="size of a network of random weights"
    )
    parser.add_argument("--resolution", type=int, default=128, help="image side in pixels")
    args = parser.parse_args()
    scene = load_scene(args.scene)
    variables, config = _network(args)
    require_v1(config, args.checkpoint or args.variant)
    images = {
        name: Renderer(variables, config, name).render(scene, args.resolution)
        for name in PRECISIONS
    }
    print("precision  relative error of log10(1 + radiance)  PSNR of clipped radiance, dB")
    for name, image in images.items():
        error, decibels = compare(image, images["fp32"])
        print(f"{name:<11}{error:>36.2e}{decibels:>31.1f}")


def compare(image: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Distance of images from a reference, linear radiance [B, V, H, W, 3].

    Returns:
      The relative L2 error of log10(1 + radiance), and the mean over the views of the PSNR in
      decibels of radiance clipped to [0, 1].
    """
    log_image, log_reference = (log_radiance(np.float64(x)) for x in (image, reference))
    error = np.linalg.norm(log_image - log_reference) / np.linalg.norm(log_reference)
    return float(error), float(psnr(image, reference).mean())


def _network(args):
    if args.checkpoint:
        network = load_pretrained(args.checkpoint)
        return network.variables, network.config
    config = VARIANTS[args.variant]
    return random_variables(config, seed=0), config


if __name__ == "__main__":
    run_command_line(main)
