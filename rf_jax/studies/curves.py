"""Validation curves of several training runs, against steps.

    pip install -e '.[plot]'
    %(prog)s workdirs/rooms workdirs/rooms_performer

prints a table at the last step that all runs have validated, with the seconds until then, and draws
the curves.
"""

import argparse
from pathlib import Path

import numpy as np

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.errors import InputError, needs_extra, one_line
from rf_jax.files import atomic_path
from rf_jax.images.figures import new_figure

METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS"}

Curve = np.ndarray
"""[n, 3]: the step, the seconds of training until then, and the value."""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("workdirs", type=Path, nargs="+", help="training directories of train.py")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("output"), help="folder for curves.png"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names = distinct_names(args.workdirs)
    runs = {name: read_curves(path) for name, path in zip(names, args.workdirs, strict=True)}
    print(format_table(runs))
    picture = args.output_dir / "curves.png"
    plot(runs, picture)
    print(f"-> {picture}")


def distinct_names(workdirs: list[Path]) -> list[str]:
    """The shortest ends of the paths, of as many parts each, that tell them apart.

    Raises:
      InputError: the same folder is given twice.
    """
    parts = [workdir.resolve().parts for workdir in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        names = [one_line("/".join(path[-count:])) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same workdir is given twice; give each once")


def read_curves(workdir: Path) -> dict[str, Curve]:
    """Reads the validation curves of a run, by metric.

    Time between the runs of a training that was interrupted does not count.

    Raises:
      InputError: the folder has no validation figures, or tensorboard is not installed.
    """
    with needs_extra("plot", "reading a run"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    folder = workdir / "tensorboard"
    if not folder.is_dir():
        raise InputError(f"{workdir}: no validation figures; expected a workdir of train.py")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    curves = {}
    for metric in METRICS:
        if f"validation/{metric}" not in tags:
            continue
        scalars = events.Scalars(f"validation/{metric}")
        steps, values = (
            np.array([getattr(s, name) for s in scalars]) for name in ("step", "value")
        )
        curves[metric] = np.stack([steps, _seconds(events, steps), values], axis=1)
    if not curves:
        raise InputError(f"{workdir}: no validation figures yet")
    return curves


def _seconds(events, steps: np.ndarray) -> np.ndarray:
    """Seconds of training until each step, from the speeds logged up to there."""
    speed = events.Scalars("speed/steps_per_second")
    logged = np.array([0, *(s.step for s in speed)])
    seconds = np.cumsum([0, *np.diff(logged) / [s.value for s in speed]])
    return np.interp(steps, logged, seconds)


def format_table(runs: dict[str, dict[str, Curve]]) -> str:
    """One row per run, at the last step that all runs have validated."""
    step = min(curves["psnr"][-1, 0] for curves in runs.values())
    width = max(28, *(len(name) + 1 for name in runs))
    lines = [f"{'run':<{width}}{'step':>8}{'seconds':>9}{'PSNR':>8}{'SSIM':>9}{'LPIPS':>9}"]
    for name, curves in runs.items():
        rows = {metric: curve[curve[:, 0] <= step][-1] for metric, curve in curves.items()}
        last, seconds, psnr = rows["psnr"]
        lpips = f"{rows['lpips'][2]:.4f}" if "lpips" in rows else "n/a"
        lines.append(
            f"{name:<{width}}{int(last):>8}{seconds:>9.0f}{psnr:>8.2f}"
            f"{rows['ssim'][2]:>9.4f}{lpips:>9}"
        )
    return "\n".join(lines)


def plot(runs: dict[str, dict[str, Curve]], path: Path) -> None:
    """Draws one plot per metric, against steps: seconds depend on what else a machine did."""
    metrics = [metric for metric in METRICS if any(metric in curves for curves in runs.values())]
    figure = new_figure(5 * len(metrics), 3.6)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        for name, curves in runs.items():
            if metric in curves:
                axis.plot(curves[metric][:, 0], curves[metric][:, 2], label=name)
        axis.set(title=f"validation {METRICS[metric]}", xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    run_command_line(main)
