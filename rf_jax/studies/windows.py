"""What weights that were trained with exact attention lose to attention of linear cost.

    %(prog)s --data data/rooms_mixed_test --min_triangles 1000
    %(prog)s --data data/rooms_mixed_test --checkpoint workdirs/mixed_exact --max_scenes 10

renders scenes with the attention that the weights were trained with, and then with `sliding_sink`
and `pooled` in its place, at growing windows, without any training. It prints the error of the
tokens after the first stage, the PSNR against the image of the original attention, and how much
PSNR against the ground truth is lost. Last comes the smallest window that costs at most 0.1 dB.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rf_jax.attention import Attention, Sinks, get_attention
from rf_jax.attention.pooled import PooledOptions
from rf_jax.attention.registry import exact_flops
from rf_jax.attention.sliding_sink import SlidingSinkOptions
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.errors import InputError
from rf_jax.files import save_csv
from rf_jax.images.metrics import psnr
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.models.view_independent import token_sinks
from rf_jax.radiance import linear_radiance
from rf_jax.rendering.generations import require_v1
from rf_jax.rendering.preprocess import bucket_length, prepare_scene
from rf_jax.scene.dataset import find_files
from rf_jax.structs import Scene, SceneTokens
from rf_jax.studies.triangle_counts import load_views, subdivided
from rf_jax.weights.pretrained import BUNDLED_WEIGHTS, load_pretrained

ALLOWED = 0.1
"""Loss of PSNR in dB that counts as none."""


class Case(NamedTuple):
    """A scene as the networks read it, and its truth.

    Attributes:
      tokens: the input, in the order of `sliding_sink`; exact attention does not see the order.
      cameras: camera_to_world [1, V, 4, 4] and fov_degrees [1, V].
      target: linear radiance [V, H, H, 3].
    """

    tokens: SceneTokens
    cameras: tuple[np.ndarray, np.ndarray]
    target: np.ndarray


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a folder of .h5 files with images")
    add("--checkpoint", default=BUNDLED_WEIGHTS, help="weights (default: the bundled network)")
    add("--windows", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="to compare")
    add("--block", type=int, default=16, help="tokens of a summary of sliding_sink")
    add("--min_triangles", type=int, default=0, help="leave out smaller scenes")
    add("--max_scenes", type=int, default=10, help="compare only this number of scenes")
    add("--views", type=int, default=2, help="compare only this number of views of each scene")
    add("--parts", type=int, choices=(1, 4), default=1, help="cut each triangle into so many")
    add("--output_dir", type=Path, default=Path("output"), help="folder for windows.csv")
    args = parser.parse_args()
    if min(args.max_scenes, args.views, *args.windows) < 1:
        parser.error("--max_scenes, --views and --windows: expected positive numbers")
    return args


def main() -> None:
    args = parse_args()
    network = load_pretrained(args.checkpoint)
    require_v1(network.config, args.checkpoint)
    if not network.config.view_independent.attention.exact:
        raise InputError(f"{args.checkpoint}: expected weights trained with exact attention")
    files = [path for path, _ in find_files(args.data, None)]
    scenes = (_load(path, args.views, args.parts) for path in files)
    scenes = (pair for pair in scenes if len(pair[0].triangles) >= args.min_triangles)
    scenes = list(itertools.islice(scenes, args.max_scenes))
    if not scenes:
        raise InputError(f"{args.data}: has no scene of {args.min_triangles} triangles or more")
    cases = prepare_cases(scenes, network.config)
    rows = list(compare(network.variables, network.config, cases, variants(args)))
    print(format_table(rows, cases))
    table = args.output_dir / "windows.csv"
    save_csv(table, rows)
    print(f"-> {table}")


def variants(args: argparse.Namespace) -> list[tuple[str, int, Attention]]:
    """Names, windows and attention functions, in the order of the table."""
    kinds: dict[str, Callable[[int], Any]] = {
        "window": lambda w: SlidingSinkOptions(w, block=0, lights=0),
        "window, lights": lambda w: SlidingSinkOptions(w, block=0),
        "window, summaries": lambda w: SlidingSinkOptions(w, block=args.block, lights=0),
        "window, lights, summaries": lambda w: SlidingSinkOptions(w, block=args.block),
        "pooled": PooledOptions,
    }
    return [
        (kind, window, get_attention("pooled" if kind == "pooled" else "sliding_sink", (options,)))
        for kind, make in kinds.items()
        for window, options in ((w, make(w)) for w in args.windows)
    ]


def _load(path: Path, views: int, parts: int) -> tuple[Scene, np.ndarray]:
    """A scene with some of its views, whose triangles may be cut in four, and its images."""
    scene, target = load_views(path, views)
    return scene if parts == 1 else subdivided(scene), target


def prepare_cases(scenes: list[tuple[Scene, np.ndarray]], config: RenderFormerConfig) -> list[Case]:
    """The input of all scenes, padded to one length, so that programs are compiled once."""
    ordered = dataclasses.replace(config, view_independent_attention="sliding_sink")
    registers = config.num_register_tokens
    most = max(len(scene.triangles) for scene, _ in scenes)
    padded = bucket_length(most + registers) - registers
    return [
        Case(
            prepare_scene(scene, ordered, padded),
            (scene.camera_to_world[None], scene.fov_degrees[None]),
            target,
        )
        for scene, target in scenes
    ]


def compare(
    variables: dict[str, Any],
    config: RenderFormerConfig,
    cases: list[Case],
    functions: list[tuple[str, int, Attention]],
) -> Iterator[dict[str, Any]]:
    """Replaces the attention of the first stage.

    Args:
      variables, config: a network with exact attention.
      cases: scenes.
      functions: names, windows and attention functions.

    Yields:
      means over the scenes, for each function: the error of the tokens relative to their norm, the
      PSNR against the original attention's images, that against the truth, how much of it is lost,
      and the operations of the first stage's attention relative to exact attention's.
    """
    encode, view = _programs(config)
    exact = [encode(variables, case.tokens, None) for case in cases]
    images = [view(variables, e, case) for e, case in zip(exact, cases, strict=True)]
    for name, window, attention in tqdm(functions, disable=None, leave=False):
        found = []
        for case, original, image in zip(cases, exact, images, strict=True):
            encoding = encode(variables, case.tokens, attention)
            changed = view(variables, encoding, case)
            before, after = (np.mean(psnr(x, case.target)) for x in (image, changed))
            found.append(
                {
                    "token_error": _token_error(encoding, original),
                    "psnr_to_exact": float(np.mean(psnr(changed, image))),
                    "psnr": float(after),
                    "lost_db": float(before - after),
                    "cost": _relative_cost(config, attention, case),
                }
            )
        means = {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        yield {"attention": name, "window": window} | means


def _programs(config):
    """Functions that encode a scene with an attention function, and that render its views."""

    @functools.partial(jax.jit, static_argnums=2)
    def encode(variables, tokens, attention):
        model = RenderFormer(config, view_independent_attention=attention)
        return model.apply(variables, tokens, method=RenderFormer.encode_scene)

    @functools.partial(jax.jit, static_argnums=4)
    def render(variables, encoding, cameras, fov, side):
        model = RenderFormer(config)
        arguments = encoding, cameras, fov, side
        return model.apply(variables, *arguments, method=RenderFormer.render_view)[0][0]

    def view(variables, encoding, case):
        image = render(variables, encoding, *case.cameras, case.target.shape[1])[..., :3]
        return jnp.maximum(image if config.use_ldr else linear_radiance(image), 0)

    return encode, view


def _token_error(encoding, original) -> float:
    """Norm of the difference of all valid tokens, over that of the original ones."""
    count = int(original.num_tokens[0])
    changed, tokens = (np.asarray(e.tokens[0, :count], np.float64) for e in (encoding, original))
    return float(np.linalg.norm(changed - tokens) / np.linalg.norm(tokens))


def _relative_cost(config, attention, case) -> float:
    """Operations of the attention in the first stage, over those of exact attention."""
    registers, stage = config.num_register_tokens, config.view_independent
    tokens = registers + int(case.tokens.num_triangles[0])
    sinks = int(token_sinks(case.tokens.texture, registers, attention.most_lights).lengths[0])
    more = (Sinks(sinks, sinks),) if attention.reads_sinks else ()
    sizes = tokens, tokens, stage.width, stage.num_heads
    return attention.flops(*sizes, attention.options, *more) / exact_flops(*sizes, None)


def format_table(rows: list[dict[str, Any]], cases: list[Case]) -> str:
    """The table as text, and under it the smallest window of each kind that loses nothing."""
    counts = [int(case.tokens.num_triangles[0]) for case in cases]
    lines = [
        f"{len(cases)} scenes of {min(counts):,} to {max(counts):,} triangles; PSNR "
        f"{rows[0]['psnr'] + rows[0]['lost_db']:.2f} dB with the attention of the training",
        f"{'attention':<28}{'window':>7}{'cost':>8}{'token error':>13}{'PSNR to exact':>15}"
        f"{'PSNR':>8}{'lost dB':>9}",
    ]
    enough: dict[str, str] = {}
    for row in rows:
        lines.append(
            f"{row['attention']:<28}{row['window']:>7}{row['cost']:>8.3f}"
            f"{row['token_error']:>13.4f}{row['psnr_to_exact']:>15.2f}{row['psnr']:>8.2f}"
            f"{row['lost_db']:>9.3f}"
        )
        enough.setdefault(row["attention"], "none of these")
        if row["lost_db"] <= ALLOWED and enough[row["attention"]] == "none of these":
            enough[row["attention"]] = str(row["window"])
    lines.append(f"smallest window that loses at most {ALLOWED} dB:")
    return "\n".join(lines + [f"  {name:<28}{window}" for name, window in enough.items()])


if __name__ == "__main__":
    run_command_line(main)
