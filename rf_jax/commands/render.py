"""Renders scenes with a RenderFormer network.

Examples:

    %(prog)s                    # the bundled Cornell box
    %(prog)s scene.json --checkpoint microsoft/renderformer-v1-base --precision fp16
    %(prog)s scene.glb --fit    # from Blender, see docs/blender.md
    %(prog)s turning_block      # an animation and its video
    %(prog)s frames/            # the same for a folder of .h5 or .json files
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from rf_jax.attention import ATTENTIONS
from rf_jax.command_line import make_parser
from rf_jax.errors import InputError
from rf_jax.images.tone_map import TONE_MAPPERS
from rf_jax.rendering.files import RenderOptions, find_jobs, render_jobs
from rf_jax.rendering.renderer import PRECISIONS, Renderer
from rf_jax.scene import bundled_scene_names
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS


def render_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "scenes",
        nargs="*",
        metavar="SCENE",
        help="a .json, .h5, .glb or .gltf scene, a folder of .h5 or of .json frames, or a bundled "
        f"scene ({', '.join(bundled_scene_names())}) (default: cornell_box)",
    )
    add(
        "--scene",
        dest="more_scenes",
        nargs="+",
        action="extend",
        metavar="SCENE",
        help="the same, spelled as an option (default: none)",
    )
    add(
        "--checkpoint",
        default=str(BUNDLED_WEIGHTS),
        help="an rf_jax checkpoint, a training directory, a Hugging Face folder or hub id "
        "(default: the bundled weights)",
    )
    add_latent_encoders(add)
    add("--output_dir", type=Path, default=Path("output"), help="folder for the images")
    add(
        "--resolution",
        type=int,
        help="image side in pixels (default: that of the scene's ground truth, which the images "
        "are compared with: NAME_truth_view_0.exr beside it, or img in an .h5 file; else that of "
        "the images that the weights were trained on)",
    )
    add(
        "--fit",
        action="store_true",
        help="scale and move each scene, and scale its emission, to what the weights were trained "
        "on; the image is multiplied by the same number as the emission",
    )
    add("--views", help='which cameras, such as "0,2-4" (default: all)')
    add_network_options(add)
    add("--batch_size", type=int, default=1, help="views rendered at once on each device")
    add_output_options(add)
    return parser


def add_latent_encoders(add: Callable) -> None:
    """The option for what encodes scenes for V2; `add` is a parser's `add_argument`."""
    add(
        "--latent_encoders",
        type=Path,
        metavar="FOLDER",
        help="for weights of RenderFormer V2: the networks that encode materials and environment "
        "maps, from rf-jax-convert --latent_encoders (default: none, which is enough for .h5 files "
        "that hold latents)",
    )


def add_network_options(add: Callable) -> None:
    """Options that say how the network computes; `add` is a parser's `add_argument`."""
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="type that matrix products compute in; fp16 and bf16 are fast on GPUs",
    )
    add(
        "--attention",
        help=f"{', '.join(ATTENTIONS)}, or STAGE1,STAGE2 (default: what the checkpoint names; "
        "for the published ones auto, the fastest exact attention on the device)",
    )
    add(
        "--feed_forward",
        choices=("auto", "fused"),
        help="fused: one kernel for SwiGLU's gate and the products that meet in it, on Hopper GPUs "
        "with fp16 or bf16 (default: what the checkpoint names; for the published ones auto)",
    )
    add(
        "--devices",
        type=int,
        help="devices that share the views of a scene, and the triangles of a large one (default: "
        "all)",
    )


def add_output_options(add: Callable) -> None:
    """Options that say what is written."""
    add(
        "--tone_mapper",
        choices=TONE_MAPPERS,
        default="none",
        help="display transform of PNG and video; none clips linear values, as published",
    )
    add("--save_h5", action="store_true", help="also write each scene as .h5")
    add(
        "--save_video",
        action="store_true",
        help="also write the views of a single file as .mp4; animations always are",
    )
    add("--fps", type=float, default=24.0, help="frames per second of the video")


def parse_args() -> argparse.Namespace:
    parser = render_parser()
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error(f"--batch_size: expected at least 1, found {args.batch_size}")
    if not args.fps > 0:
        parser.error(f"--fps: expected a positive number, found {args.fps}")
    return args


def main() -> None:
    args = parse_args()
    for name in ("rf_jax.scene.gltf", "rf_jax.rendering.files"):
        logging.getLogger(name).setLevel(logging.INFO)  # what became of a file's parts
    scenes = [*args.scenes, *(args.more_scenes or [])] or ["cornell_box"]
    jobs, missing = find_jobs(scenes)
    renderer = Renderer.from_pretrained(
        args.checkpoint,
        args.precision,
        args.attention,
        args.devices,
        args.latent_encoders,
        args.feed_forward,
    )
    options = RenderOptions(
        output_dir=args.output_dir,
        resolution=args.resolution,
        views=args.views,
        batch_size=args.batch_size,
        fit=args.fit,
        tone_mapper=args.tone_mapper,
        save_h5=args.save_h5,
        save_video=args.save_video,
        fps=args.fps,
    )
    summary = render_jobs(renderer, jobs, options)
    print(f"{summary} -> {options.output_dir}/", *summary.comparison_lines(), sep="\n")
    if renderer.approximates_exact_weights:
        print(
            f"note: these weights were trained with exact attention, which {args.attention} only "
            "approximates; sliding_sink comes near, others lose light transport (docs/attention.md)"
        )
    if renderer.config.v2 is not None:
        used = renderer.config.view_independent_attention
        print(
            f"note: the first stage attended by {used}; which attention the weights of "
            "RenderFormer V2 were trained with is not known (docs/v2.md)"
        )
    if args.checkpoint == str(BUNDLED_WEIGHTS):
        print(
            "note: the bundled network is small and knows one kind of room at 64x64 pixels; "
            "give a larger one with --checkpoint"
        )
    if failed := missing + summary.failed:
        raise InputError(
            f"{len(failed)} of {len(scenes)} scenes were not rendered: {', '.join(failed)}"
        )
