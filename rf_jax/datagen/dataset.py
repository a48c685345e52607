"""Makes the scenes that a dataset lacks, and writes its index."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rf_jax import schema
from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.path_tracer import check_renderer
from rf_jax.datagen.scene_files import ATTEMPTS, RunOptions
from rf_jax.datagen.shapes import check_packages, find_mesh_files
from rf_jax.datagen.workers import outcomes
from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import (
    atomic_path,
    locked,
    parse_json,
    read_json,
    remove_abandoned,
    report_unwritable,
)
from rf_jax.processes import cpu_count
from rf_jax.scene import load_attributes
from rf_jax.scene.dataset import INDEX_NAME, write_index

MAX_GIVEN_UP = 10
"""A run stops when more scenes than this have failed and none has succeeded."""


def make_dataset(config: DataConfig, options: RunOptions) -> list[dict[str, Any]]:
    """Makes the scenes that are not in the output folder yet.

    Returns:
      the entries of the index, one per scene.

    Raises:
      InputError: the folder holds another dataset or cannot be written, a program is missing, or
        some scenes failed in every attempt.
    """
    folder = options.output_dir
    check_packages()
    find_mesh_files(config.sampler.mesh_files)
    with locked(folder), report_unwritable(folder):
        _check_same_config(config, folder)
        renderer = check_renderer(config.render, options.cycles_python)
        default_workers = 2 if renderer == "cuda_ad_rgb" else cpu_count()
        options = dataclasses.replace(options, num_workers=options.num_workers or default_workers)
        for place in (folder, *folder.glob("json/scene_*")):
            remove_abandoned(place)
        entries = finished_entries(folder)
        missing = [index for index in range(config.num_scenes) if index not in entries]
        # Written before the run as well, because one that was killed may have left half a line
        write_index(folder, _sorted(entries))
        failed = _make_missing(config, options, renderer, missing, entries)
        write_index(folder, _sorted(entries))
    if failed:
        raise InputError(
            f"{len(failed)} of {config.num_scenes} scenes failed {ATTEMPTS} times (the first: "
            f"{failed[0]}); {folder / 'failures.log'} has the reasons"
        )
    return _sorted(entries)


def finished_entries(folder: Path) -> dict[int, dict[str, Any]]:
    """Reads the index entries of the finished scenes from their files.

    Returns:
      an entry per index of a scene.

    Raises:
      InputError: a file is not a training file of a dataset.
    """
    entries = {}
    for path in sorted(folder.glob("scene_*.h5")):
        entry = _json_attribute(path, "index_entry")
        if not isinstance(entry, dict) or not isinstance(entry.get("index"), int):
            raise InputError(f"{path}: expected a training file, found no index_entry; move it")
        entries[entry["index"]] = entry
    return entries


def _json_attribute(path: Path, name: str) -> Any:
    """The value of an attribute that holds JSON; None if there is none."""
    text = load_attributes(path).get(name)
    with prefix_errors(f"{path}: attribute {name}"):
        return parse_json(text.encode(errors="replace")) if isinstance(text, str) else None


def _sorted(entries: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [entries[index] for index in sorted(entries)]


def _make_missing(
    config: DataConfig,
    options: RunOptions,
    renderer: str,
    missing: list[int],
    entries: dict[int, dict[str, Any]],
) -> list[int]:
    """Makes scenes in worker processes and adds their entries; returns the failed ones' indices."""
    failed, views = [], config.sampler.num_views
    progress = tqdm(
        total=config.num_scenes * views,
        initial=len(entries) * views,
        unit="image",
        mininterval=1.0,
        smoothing=0.05,
    )
    with (
        progress,
        (options.output_dir / INDEX_NAME).open("a") as index_file,
        (options.output_dir / "failures.log").open("a") as failure_file,
        contextlib.closing(outcomes(config, options, renderer, missing)) as finished,
    ):
        for outcome in finished:
            for failure in outcome.failures:
                failure_file.write(failure + "\n")
                progress.write(f"replaced: {failure}", file=sys.stderr)
            failure_file.flush()
            progress.update(views)
            if outcome.entry is None:
                failed.append(outcome.index)
                if len(failed) > MAX_GIVEN_UP and not entries:
                    break
                continue
            entries[outcome.index] = outcome.entry
            index_file.write(json.dumps(outcome.entry) + "\n")
            index_file.flush()
    return failed


def _check_same_config(config: DataConfig, folder: Path) -> None:
    """Writes `config.json`, or checks that only the number of scenes differs from it.

    Where it is missing, the configuration that every finished scene holds takes its place.
    """
    path = folder / "config.json"
    text = json.dumps(schema.to_dict(config), indent=2)
    made = None
    if path.exists():
        made = read_json(path)
    elif finished := sorted(folder.glob("scene_*.h5")):
        made = _json_attribute(finished[0], "config")
    if made is not None:
        differing = _differences(made, json.loads(text))
        if differing := sorted(differing - {"num_scenes"}):
            raise InputError(
                f"{folder}: holds a dataset of another configuration ({', '.join(differing)} "
                "differ); choose another --output_dir"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def _differences(old: Any, new: Any, where: str = "") -> set[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return set() if old == new else {where}
    names = old.keys() | new.keys()
    return set().union(
        *(_differences(old.get(n), new.get(n), f"{where}.{n}" if where else n) for n in names)
    )
