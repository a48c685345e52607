"""What one layer of the first stage costs with each attention function, in one run.

    %(prog)s --tokens 16384
    %(prog)s --tokens 65536 --attention sliding_sink auto
    %(prog)s --tokens 65536 --attention sliding_sink auto --variant v2_200m

A layer of random weights reads random tokens at random places. For RenderFormer V2 so many of them
are triangles, to which its sinks are added. CPU seconds are those of all cores, so that they tell
the cost on a busy machine too. The rate of the whole layer is compared with that of matrix
products, which run in between.
"""

import argparse
import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rf_jax.attention import ATTENTIONS, Sinks
from rf_jax.attention.registry import exact_flops
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.models import VARIANTS, RenderFormerConfig
from rf_jax.models.encodings import rope_frequencies, rope_rotation
from rf_jax.models.flops import TokenCounts, layer_flops, measure_product_rate, token_counts
from rf_jax.models.transformer import EncoderLayer
from rf_jax.processes import keep_freed_memory

SINKS = 24
"""Registers and lights among the tokens of V1."""


class Cost(NamedTuple):
    """What a layer took: the fastest of its runs.

    Attributes:
      seconds: of wall time.
      cpu_seconds: of all cores.
      rate: FLOP/s of the fastest matrix products between the runs.
      num_bytes: what the program needs beside its inputs.
    """

    seconds: float
    cpu_seconds: float
    rate: float
    num_bytes: int


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--tokens", type=int, default=16_384, help="length of the sequence")
    add("--variant", choices=VARIANTS, default="v1_base", help="size of the network")
    add(
        "--attention",
        nargs="+",
        choices=ATTENTIONS,
        default=["auto", "performer", "sliding_sink", "pooled", "latent"],
        help="functions to compare",
    )
    add("--repeats", type=int, default=1, help="how often each runs; the fastest counts")
    args = parser.parse_args()
    if min(args.tokens, args.repeats) < 1:
        parser.error("--tokens and --repeats: expected positive numbers")
    return args


def main() -> None:
    args = parse_args()
    keep_freed_memory()  # clearing pages would weigh as much as for all layers of a network
    print(f"one layer of {args.variant}, {args.tokens:,} tokens, float32, {jax.devices()[0]}")
    print(
        f"{'attention':<14}{'TFLOP':>8}{'exact / it':>12}{'seconds':>10}{'CPU seconds':>13}"
        f"{'of products':>13}{'memory GiB':>12}"
    )
    for name in args.attention:
        config = dataclasses.replace(VARIANTS[args.variant], view_independent_attention=name)
        counts = layer_tokens(config, args.tokens)
        linear, attention = layer_flops(config, counts)
        stage = config.view_independent
        exact = exact_flops(counts.tokens, counts.tokens, stage.width, stage.num_heads, None)
        cost = measure(config, counts, args.repeats)
        print(
            f"{name:<14}{attention / 1e12:>8.3f}{exact / attention:>12.1f}{cost.seconds:>10.3g}"
            f"{cost.cpu_seconds:>13.3g}{(linear + attention) / cost.seconds / cost.rate:>13.1%}"
            f"{cost.num_bytes / 2**30:>12.2f}",
            flush=True,
        )


def layer_tokens(config: RenderFormerConfig, tokens: int) -> TokenCounts:
    """Tokens and sinks: for V1 of a sequence of that length, for V2 of so many triangles."""
    return TokenCounts(tokens, SINKS) if config.v2 is None else token_counts(config, tokens)


def measure(config: RenderFormerConfig, counts: TokenCounts, repeats: int) -> Cost:
    """Runs a layer, and products of its size, in turn."""
    stage, (tokens, num_sinks) = config.view_independent, counts
    layer = EncoderLayer(stage, jnp.float32)
    rngs = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(rngs[0], (1, tokens, stage.width))
    coordinates = 9 if config.v2 is None else 3
    positions = jax.random.uniform(rngs[1], (1, tokens, coordinates))
    rotation = rope_rotation(positions, rope_frequencies(stage.rope_dim, False), stage.head_dim)
    lengths = jnp.array([tokens])
    sinks = Sinks(jnp.array([num_sinks]), num_sinks, summarised=config.v2 is not None)
    variables = layer.init(rngs[2], x[:, :2], jax.tree.map(lambda r: r[:, :2], rotation), lengths)
    arguments = variables, x, rotation, lengths, sinks
    program = jax.jit(layer.apply).lower(*arguments).compile()
    best, rate = (float("inf"), float("inf")), 0.0
    for _ in range(repeats):
        rate = max(rate, measure_product_rate(config, tokens, jnp.float32))
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arguments))
        after = time.perf_counter(), time.process_time()
        best = tuple(map(min, best, (b - a for a, b in zip(before, after, strict=True))))
    return Cost(*best, rate, program.memory_analysis().temp_size_in_bytes)


if __name__ == "__main__":
    run_command_line(main)
