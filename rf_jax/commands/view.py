"""Shows a scene in the browser while you move its camera, objects, lights and materials.

Examples:

    %(prog)s                        # the bundled Cornell box, at http://127.0.0.1:8080
    %(prog)s scene.json --checkpoint microsoft/renderformer-v1-base --precision fp16
    %(prog)s scene.json --host 0.0.0.0 --port 9000      # for other machines, too
"""

import argparse
from pathlib import Path

from rf_jax.command_line import make_parser
from rf_jax.commands.render import add_network_options
from rf_jax.errors import needs_extra
from rf_jax.images.tone_map import TONE_MAPPERS
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import bundled_scene_names
from rf_jax.scene.check import log_warnings
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "scene",
        nargs="?",
        default="cornell_box",
        metavar="SCENE",
        help="a .json, .h5, .glb or .gltf scene, or a bundled scene "
        f"({', '.join(bundled_scene_names())}); those that name their objects can be edited",
    )
    add(
        "--checkpoint",
        default=str(BUNDLED_WEIGHTS),
        help="an rf_jax checkpoint, a training directory, a Hugging Face folder or hub id "
        "(default: the bundled weights)",
    )
    add("--latent_encoders", type=Path, metavar="FOLDER", help="as for rf-jax-render")
    add("--fit", action="store_true", help="as for rf-jax-render")
    add("--resolution", type=int, help="image side in pixels (default: that of the weights)")
    add(
        "--moving_resolution",
        type=int,
        help="image side while something moves (default: as high as 20 images per second allow)",
    )
    add("--tone_mapper", choices=TONE_MAPPERS, default="none", help="display transform")
    add("--wireframe", action="store_true", help="draw the triangles from the beginning")
    add("--output_dir", type=Path, default=Path("output"), help="folder for what is saved")
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all")
    add("--port", type=int, default=8080, help="the next port that is free is taken")
    add_network_options(add)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with needs_extra("view", "the viewer"):
        from rf_jax.viewer.loop import Settings
        from rf_jax.viewer.server import Viewer, check_address
        from rf_jax.viewer.state import open_scene

    def make_renderer(attention: str | None) -> Renderer:
        options = args.devices, args.latent_encoders, args.feed_forward
        return Renderer.from_pretrained(args.checkpoint, args.precision, attention, *options)

    check_address(args.host, args.port)
    renderer = make_renderer(args.attention)
    edited = open_scene(args.scene, renderer, args.fit)
    log_warnings(edited.scene, renderer.trained_on, set())
    resolution = renderer.check_resolution(args.resolution or renderer.trained_on.resolution)
    if args.moving_resolution is not None:
        renderer.check_resolution(args.moving_resolution)
    settings = Settings(resolution, args.moving_resolution, args.attention, args.tone_mapper)
    print("compiling ...", flush=True)
    viewer = Viewer(
        make_renderer, edited, settings, args.output_dir, args.host, args.port, args.wireframe
    )
    try:
        print(f"{args.scene}: open {viewer.url} in a browser; Ctrl-C ends", flush=True)
        viewer.wait()
    finally:
        viewer.close()
