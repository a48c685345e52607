"""How many images per second the input pipeline delivers.

    %(prog)s --data data/tiny --resolution 128 --workers 1 2
    %(prog)s --data data/tiny --resolution 128 --workers 2 --grain

The second command also reads the same samples through grain (pip install grain).
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.training.config import DataConfig, TrainingConfig
from rf_jax.training.data import BatchStream, SceneLoader
from rf_jax.training.scene_files import find_training_files


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a folder of training files")
    add("--resolution", type=int, default=256, help="image side in pixels")
    add("--max_triangles", type=int, default=1536, help="triangles that scenes are padded to")
    add("--batch_size", type=int, default=16, help="scenes in a batch")
    add("--views", type=int, default=2, help="views of a scene")
    add("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes to try")
    add("--batches", type=int, default=20, help="batches that are timed")
    add("--grain", action="store_true", help="also time grain's multi-process prefetch")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    sizes = {name: getattr(args, name) for name in ("resolution", "max_triangles", "views")}
    print(f"{'loader':<8}{'workers':>8}{'images/s':>10}")
    for workers in args.workers:
        data = DataConfig(path=str(args.data), workers=workers, **sizes)
        config = TrainingConfig(data=data, batch_size=args.batch_size)
        loader = SceneLoader(tuple(find_training_files(config, "train")), config, training=True)
        stream = BatchStream(loader, args.batch_size)
        _report("ours", workers, stream, args)
        stream.close()
        if args.grain:
            _report("grain", workers, grain_stream(loader, args.batch_size), args)


def grain_stream(loader: SceneLoader, batch_size: int) -> Iterator:
    """The same samples in batches, read by grain's workers."""
    import grain.python as grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["input_rate"])
    dataset = grain.MapDataset.range(1_000_000).map(_Load(loader)).batch(batch_size)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    workers = grain.MultiprocessingOptions(num_workers=loader.config.data.workers)
    return iter(dataset.to_iter_dataset(options).mp_prefetch(workers))


@dataclasses.dataclass(frozen=True)
class _Load:
    """Loads a sample as the dictionary that grain batches."""

    loader: SceneLoader

    def __call__(self, position):
        batch, _ = self.loader.load(int(position))
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def _report(name: str, workers: int, stream: Iterator, args: argparse.Namespace) -> None:
    """Times batches, after the first ones, which were read ahead while the workers started."""
    for _ in itertools.islice(stream, 4):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(stream, args.batches):
        pass
    seconds = time.perf_counter() - start
    rate = args.batches * args.batch_size * args.views / seconds
    print(f"{name:<8}{workers:>8}{rate:>10.1f}", flush=True)


if __name__ == "__main__":
    run_command_line(main)
