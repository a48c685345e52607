"""Error of the Performer against exact attention, by its options, feature counts and input norms.

    %(prog)s --output_dir docs

prints a table, and writes `attention_study.csv` and `images/attention_study.png`.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.attention.performer import (
    PerformerOptions,
    orthogonal_projection,
    performer_attention,
)
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.files import atomic_path, save_csv
from rf_jax.images.figures import new_figure

HEAD_DIM, NUM_QUERIES, NUM_KEYS, NUM_HEADS = 128, 256, 1024, 2
"""Sizes of the random attention inputs."""

SQUARED_NORMS = (0.5, 1.0, 2.0, 4.0, 11.3)
"""Mean |x|^2 / sqrt(hd) of queries and keys."""

FEATURES = (128, 256, 512, 1024, 2048)

OPTIONS = {
    "plain": {},
    "hyperbolic": {"hyperbolic": True},
    "centred": {"center_keys": True},
    "centred + hyperbolic": {"center_keys": True, "hyperbolic": True},
}
"""Arguments of `PerformerOptions` by the name in the table."""

DATA = {"independent": 0.0, "common key mean": 0.5}
"""Share of the keys' squared norm that all keys have in common."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("docs"), help="folder to write to")
    parser.add_argument("--seeds", type=int, default=5, help="draws that errors are medians of")
    args = parser.parse_args()
    rows = study(args.seeds)
    print_table(rows)
    save_csv(args.output_dir / "attention_study.csv", rows)
    save_plot(args.output_dir / "images" / "attention_study.png", rows)


def study(seeds: int) -> list[dict]:
    """Median relative errors of the attention output, one row per case.

    The rows "mean of values" show the error of ignoring the attention scores altogether.
    """
    rows = []
    cases = list(itertools.product(DATA, SQUARED_NORMS))
    for data, squared_norm in tqdm(cases, disable=None, leave=False):
        common = dict(data=data, squared_norm=squared_norm)
        arrays = [random_heads(s, squared_norm, DATA[data]) for s in range(seeds)]
        exact = [dot_product_attention(*heads) for heads in arrays]
        ignored = [
            jnp.broadcast_to(v.mean(1, keepdims=True), e.shape)
            for (_, _, v), e in zip(arrays, exact, strict=True)
        ]
        rows.append(
            common | dict(options="mean of values", features=0, error=_median(ignored, exact))
        )
        for (name, options), features in itertools.product(OPTIONS.items(), FEATURES):
            options = PerformerOptions(features=features, **options)
            out = [_approximate(s, heads, options) for s, heads in enumerate(arrays)]
            rows.append(common | dict(options=name, features=features, error=_median(out, exact)))
    return rows


def random_heads(seed: int, squared_norm: float, common: float) -> list[jax.Array]:
    """Gaussian query, key and value [1, tokens, nh, hd].

    Args:
      seed: of the draw.
      squared_norm: the mean of |query|^2 / sqrt(hd), and of the keys'.
      common: the share of the keys' squared norm that all keys have in common.
    """
    rng = np.random.default_rng(seed)
    scale = np.sqrt(squared_norm) * HEAD_DIM**-0.25
    query = scale * rng.normal(size=(1, NUM_QUERIES, NUM_HEADS, HEAD_DIM))
    mean = rng.normal(size=(1, 1, NUM_HEADS, HEAD_DIM))
    key = rng.normal(size=(1, NUM_KEYS, NUM_HEADS, HEAD_DIM))
    key = scale * (np.sqrt(1 - common) * key + np.sqrt(common) * mean)
    value = rng.normal(size=key.shape)
    return [jnp.asarray(x, jnp.float32) for x in (query, key, value)]


def _approximate(seed, heads, options):
    projection = orthogonal_projection(jax.random.key(seed), options.num_draws(HEAD_DIM), HEAD_DIM)
    return _performer(*heads, projection, options)


_performer = jax.jit(
    lambda q, k, v, projection, options: performer_attention(
        q, k, v, None, projection, options, cross=True
    ),
    static_argnames="options",
)


def _median(actual, exact) -> float:
    errors = [
        jnp.linalg.norm(a - e) / jnp.linalg.norm(e) for a, e in zip(actual, exact, strict=True)
    ]
    return float(np.median(errors))


def print_table(rows: list[dict]) -> None:
    """Prints Markdown: one line per kind of data, norm and option, one column per feature count."""
    print("| data | \\|x\\|^2 | options | " + " | ".join(f"r = {r}" for r in FEATURES) + " |")
    print("|---" * (3 + len(FEATURES)) + "|")
    for data, norm, name in itertools.product(DATA, SQUARED_NORMS, ("mean of values", *OPTIONS)):
        errors = [
            f"{row['error']:.3f}"
            for row in rows
            if (row["data"], row["squared_norm"], row["options"]) == (data, norm, name)
        ]
        cells = errors if len(errors) > 1 else errors * len(FEATURES)
        print(f"| {data} | {norm} | {name} | " + " | ".join(cells) + " |")


def save_plot(path: Path, rows: list[dict]) -> None:
    figure = new_figure(14, 5.6)
    axes = figure.subplots(len(DATA), len(SQUARED_NORMS), sharex=True, sharey=True)
    for (data, norm), axis in zip(itertools.product(DATA, SQUARED_NORMS), axes.flat, strict=True):
        case = [row for row in rows if (row["data"], row["squared_norm"]) == (data, norm)]
        for name in OPTIONS:
            errors = [row["error"] for row in case if row["options"] == name]
            axis.loglog(FEATURES, errors, marker="o", markersize=3, label=name)
        axis.axhline(case[0]["error"], color="black", linestyle=":", label=case[0]["options"])
        axis.set_title(f"{data}, $|x|^2$ = {norm}", fontsize=9)
        axis.set_xticks(FEATURES, FEATURES, fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("features")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error")
    axes[0, 0].legend(fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_command_line(main)
