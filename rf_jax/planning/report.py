"""What is printed of a plan."""

import collections

from rf_jax.planning.gpus import GIB, Gpu
from rf_jax.planning.programs import Plan
from rf_jax.planning.trials import DEFAULT_FRACTION, LARGEST_FRACTION, Trial, best, fits

LARGEST = 6
"""Number of operations that a report lists."""


def plan_lines(plan: Plan, gpu: Gpu) -> list[str]:
    """The report on one program."""
    return [
        f"{plan.name} on {plan.devices} x {gpu.name}",
        *_memory_lines(plan, gpu),
        *_time_lines(plan),
    ]


def trial_lines(trials: list[Trial], gpu: Gpu) -> list[str]:
    """The report on what was tried for a step that does not fit."""
    lines = ["tried instead (the bound on time is on paper):"]
    for trial in trials:
        verdict = "fits" if fits(trial.plan, gpu) else "does not fit"
        lines.append(
            f"  {_options(trial):<60} {trial.plan.bytes / GIB:7.1f} GiB "
            f"{trial.plan.roofline.seconds * 1e3:8.1f} ms  {verdict}"
        )
    chosen = best(trials, gpu)
    if chosen is None:
        lines.append("nothing fits: take more devices, a smaller batch_size, or larger GPUs")
    else:
        lines.append(f"add {_options(chosen)}{_fraction_advice(chosen.plan, gpu)}")
    return lines


def _memory_lines(plan: Plan, gpu: Gpu) -> list[str]:
    lines = ["  memory on each device"]
    lines += [f"    {kind:<24}{size / GIB:9.2f} GiB" for kind, size in plan.memory.items()]
    total = f"    {'total':<24}{plan.bytes / GIB:9.2f} GiB of {gpu.memory / GIB:.1f}"
    if not fits(plan, gpu):
        usable = LARGEST_FRACTION * gpu.memory / GIB
        return [*lines, f"{total}: does not fit ({usable:.1f} GiB can be used)"]
    return [*lines, f"{total}: fits{_fraction_advice(plan, gpu)}"]


def _fraction_advice(plan: Plan, gpu: Gpu) -> str:
    if fits(plan, gpu, DEFAULT_FRACTION):
        return ""
    return (
        f", with XLA_PYTHON_CLIENT_MEM_FRACTION={LARGEST_FRACTION} in the environment (JAX takes "
        f"{DEFAULT_FRACTION * gpu.memory / GIB:.1f} GiB otherwise)"
    )


def _time_lines(plan: Plan) -> list[str]:
    bound = plan.roofline
    kinds = collections.Counter[str]()
    for kernel in bound.kernels:
        kinds[kernel.kind] += kernel.seconds
    parts = ", ".join(f"{kind} {seconds * 1e3:.2f}" for kind, seconds in kinds.most_common())
    lines = [
        "  time on paper: a bound with perfect kernels, not a measurement",
        f"    products alone {bound.product_seconds * 1e3:9.2f} ms, {bound.flops / 1e12:.2f} TFLOP",
        f"    all kernels    {bound.seconds * 1e3:9.2f} ms in {bound.runs:,} launches, of which "
        f"products are {bound.product_share:.0%}",
        f"    of it          {parts} ms",
    ]
    if bound.unknown_loops:
        lines.append(f"    {bound.unknown_loops} loops have no known length; they count as one run")
    lines += [f"    {text}" for text in _collective_lines(plan)]
    lines.append("    longest:")
    lines += [
        f"      {seconds * 1e3:8.2f} ms  {kind:<12} {label}"
        for kind, label, seconds in bound.largest(LARGEST)
    ]
    return lines


def _collective_lines(plan: Plan) -> list[str]:
    runs, sent = collections.Counter[str](), collections.Counter[str]()
    for kernel in plan.roofline.of_kind("collective"):
        runs[kernel.label] += kernel.runs
        sent[kernel.label] += kernel.bytes
    if not runs:
        return ["collectives: none"]
    return [
        f"{count} x {kind}: each device sends {sent[kind] / 1e9:.3f} GB"
        for kind, count in runs.items()
    ]


def _options(trial: Trial) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in trial.changes.items())
