"""Worker processes that make scenes; the run goes on when one of them dies."""

import collections
import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.path_tracer import PathTracer, make_path_tracer
from rf_jax.datagen.scene_files import ATTEMPTS, Outcome, RunOptions, make_scene
from rf_jax.processes import cpu_count, end_with_parent, interrupts_held_back, kill_workers


def outcomes(
    config: DataConfig, options: RunOptions, renderer: str, missing: list[int]
) -> Iterator[Outcome]:
    """Makes scenes in worker processes.

    A scene that kills its worker is replaced by its next attempt.

    Args:
      config: the dataset.
      options: options of the run, with a number of workers.
      renderer: what `check_renderer` found.
      missing: indices of the scenes to make.

    Yields:
      the outcomes, in the order in which they are ready.
    """
    waiting = [(index, 0) for index in reversed(missing)]
    # Scenes that were running when a worker died; they run one at a time, to find which kills
    suspects: list[tuple[int, int]] = []
    deaths: dict[int, list[str]] = collections.defaultdict(list)  # by index of the scene
    while waiting or suspects:
        running: dict[concurrent.futures.Future, tuple[int, int]] = {}
        pool = _pool(config, options, renderer)
        try:
            while waiting or suspects or running:
                _submit(pool, running, suspects or waiting, 1 if suspects else options.num_workers)
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    outcome = future.result()
                    del running[future]
                    failures = (*deaths.pop(outcome.index, ()), *outcome.failures)
                    yield dataclasses.replace(outcome, failures=failures)
        except (KeyboardInterrupt, GeneratorExit):
            # What they are making is made by the next run; files appear whole or not at all.
            kill_workers(pool)
            raise
        except BrokenProcessPool:
            suspects += running.values()
            if len(running) == 1:
                index, attempt = suspects.pop()
                deaths[index].append(_died(config, index, attempt))
                if attempt + 1 == ATTEMPTS:
                    yield Outcome(index, None, tuple(deaths.pop(index)))
                else:
                    suspects.append((index, attempt + 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(
    pool: concurrent.futures.ProcessPoolExecutor,
    running: dict[concurrent.futures.Future, tuple[int, int]],
    tasks: list[tuple[int, int]],
    num_workers: int,
) -> None:
    """Keeps one more task in flight than there are workers, so that none waits; or one alone."""
    most = num_workers + (num_workers > 1)
    while tasks and len(running) < most:
        with interrupts_held_back():
            future = pool.submit(work, *tasks[-1])  # fails where a worker has died since
        running[future] = tasks.pop()


def _died(config: DataConfig, index: int, attempt: int) -> str:
    return f"seed {config.seed} scene {index} attempt {attempt}: its worker process died"


def _pool(
    config: DataConfig, options: RunOptions, renderer: str
) -> concurrent.futures.ProcessPoolExecutor:
    threads = max(1, cpu_count() // options.num_workers)
    return concurrent.futures.ProcessPoolExecutor(
        options.num_workers,
        # Forked processes would inherit libraries whose threads do not exist in them
        multiprocessing.get_context("spawn"),
        _start_worker,
        (config, options, renderer, threads),
    )


_worker: tuple[DataConfig, RunOptions, PathTracer]
"""What `_start_worker` made in this worker process."""


def _start_worker(config: DataConfig, options: RunOptions, renderer: str, threads: int) -> None:
    global _worker
    end_with_parent()
    tracer = make_path_tracer(config.render, renderer, options.cycles_python, threads)
    _worker = config, options, tracer


def work(index: int, first_attempt: int) -> Outcome:
    """Makes a scene in this worker process."""
    return make_scene(*_worker, index, first_attempt)
