"""What one layer of the first stage costs with each attention function, in one run.

    %(prog)s --tokens 16384
    %(prog)s --tokens 65536 --attention sliding_sink auto

A layer of random weights reads random tokens at random places. CPU seconds are those of all cores,
so that they tell the cost on a busy machine too.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp

from rf_jax.attention import ATTENTIONS, Sinks, get_attention
from rf_jax.attention.registry import exact_flops
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.models import VARIANTS
from rf_jax.models.config import TransformerConfig
from rf_jax.models.encodings import rope_frequencies, rope_rotation
from rf_jax.models.transformer import EncoderLayer

SINKS = 24
"""Registers and lights among the tokens."""


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
    print(f"one layer of {args.variant}, {args.tokens:,} tokens, float32, {jax.devices()[0]}")
    print(
        f"{'attention':<14}{'TFLOP':>8}{'exact / it':>12}{'seconds':>10}{'CPU seconds':>13}"
        f"{'memory GiB':>12}"
    )
    for name in args.attention:
        stage = dataclasses.replace(
            VARIANTS[args.variant].view_independent, attention=get_attention(name)
        )
        exact = exact_flops(args.tokens, args.tokens, stage.width, stage.num_heads, None)
        flops = attention_flops(stage, args.tokens)
        seconds, cpu_seconds, num_bytes = measure(stage, args.tokens, args.repeats)
        print(
            f"{name:<14}{flops / 1e12:>8.3f}{exact / flops:>12.1f}{seconds:>10.3g}"
            f"{cpu_seconds:>13.3g}{num_bytes / 2**30:>12.2f}",
            flush=True,
        )


def attention_flops(stage: TransformerConfig, tokens: int) -> float:
    """Operations of a layer's attention, as its formula counts them."""
    attention = stage.attention
    more = (Sinks(SINKS, SINKS),) if attention.reads_sinks else ()
    sizes = tokens, tokens, stage.width, stage.num_heads
    return attention.flops(*sizes, attention.options, *more)


def measure(stage: TransformerConfig, tokens: int, repeats: int) -> tuple[float, float, int]:
    """Runs a layer.

    Returns:
      seconds, CPU seconds of all cores, and the bytes that the program needs beside its inputs.
    """
    layer = EncoderLayer(stage, jnp.float32)
    rngs = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(rngs[0], (1, tokens, stage.width))
    positions = jax.random.uniform(rngs[1], (1, tokens, 9))
    rotation = rope_rotation(positions, rope_frequencies(stage.rope_dim, False), stage.head_dim)
    lengths = jnp.array([tokens])
    sinks = Sinks(jnp.array([SINKS]), SINKS)
    variables = layer.init(rngs[2], x[:, :2], jax.tree.map(lambda r: r[:, :2], rotation), lengths)
    arguments = variables, x, rotation, lengths, sinks
    program = jax.jit(layer.apply).lower(*arguments).compile()
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arguments))
        after = time.perf_counter(), time.process_time()
        best = tuple(map(min, best, (b - a for a, b in zip(before, after, strict=True))))
    return *best, program.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    run_command_line(main)
