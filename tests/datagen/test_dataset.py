"""Datasets: their files and index, resumed runs, failures, and what `inspect` says."""

import concurrent.futures
import dataclasses
import errno
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import dying_worker
import h5py
import numpy as np
import pytest
from known_scenes import CONFIGS

from rf_jax.config_files import load_config_file
from rf_jax.datagen import dataset, workers
from rf_jax.datagen.config import DataConfig
from rf_jax.datagen.dataset import finished_entries, make_dataset
from rf_jax.datagen.report import dry_run, inspect_dataset
from rf_jax.datagen.scene_files import ATTEMPTS, Outcome, RunOptions, make_scene, split_name
from rf_jax.errors import InputError
from rf_jax.files import locked
from rf_jax.images.files import load_png
from rf_jax.scene import h5, load_h5, load_images, load_scene

KILLS = int(os.environ.get("RF_JAX_KILLS", "1"))


class Painter:
    """A renderer that paints every view grey, after a number of failures."""

    name = "painter 1"

    def __init__(self, gray=0.5, failures=0):
        self.gray, self.failures = gray, failures

    def render(self, scene, seed):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the paint\nis out")
        return np.full((len(scene.fov_degrees), 8, 8, 4), self.gray, np.float32)


def make(config, folder, tracer=None, index=0, **options):
    folder.mkdir(exist_ok=True)
    return make_scene(config, RunOptions(folder, 1, **options), tracer or Painter(), index)


def test_a_training_file(tiny_config, tmp_path):
    outcome = make(tiny_config, tmp_path, write_json=True)
    path = tmp_path / "scene_00000000.h5"
    scene, images = load_h5(path), load_images(path)
    views = len(scene.fov_degrees)
    assert images.shape == (views, 8, 8, 4) and images.dtype == np.float16
    assert outcome.entry["triangles"] == len(scene.triangles)
    assert outcome.entry["views"] == views
    again = load_scene(tmp_path / "json" / "scene_00000000" / "scene.json")
    np.testing.assert_array_equal(again.triangles, scene.triangles)
    np.testing.assert_array_equal(again.camera_to_world, scene.camera_to_world)
    with h5py.File(path) as file:
        assert {
            name: file[name].dtype.str for name in ("triangles", "vn", "c2w", "fov", "mvp")
        } == (dict.fromkeys(("triangles", "vn", "c2w", "fov", "mvp"), "<f4"))
        assert file["texture"].shape == (len(scene.triangles), 13)
        assert file["mvp"].shape == (views, 4, 4)
        assert json.loads(file.attrs["config"])["num_scenes"] == 3
        assert file.attrs["renderer"] == "painter 1" and file.attrs["denoiser"] == ""
        assert (file.attrs["seed"], file.attrs["scene_index"], file.attrs["attempt"]) == (0, 0, 0)


def test_full_textures_hold_the_same(tiny_config, tmp_path):
    make(tiny_config, tmp_path / "plain")
    make(tiny_config, tmp_path / "full", full_texture=True)
    name = "scene_00000000.h5"
    with h5py.File(tmp_path / "full" / name) as file:
        assert file["texture"].shape[1:] == (13, 32, 32)
    plain, full = (load_h5(tmp_path / kind / name) for kind in ("plain", "full"))
    np.testing.assert_array_equal(plain.texture, full.texture)


def test_a_scene_of_1500_triangles_is_below_a_megabyte(tmp_path):
    config = load_config_file(
        DataConfig, str(CONFIGS / "data_512.py"), ["--config.render.denoise=False"]
    )
    for index in range(20):
        outcome = make(config, tmp_path, index=index)
        if outcome.entry["triangles"] >= 1500:
            assert (tmp_path / outcome.entry["file"]).stat().st_size < 2**20
            return
    raise AssertionError("no scene of 1,500 triangles")


def test_a_failing_scene_is_replaced(tiny_config, tmp_path):
    outcome = make(tiny_config, tmp_path, Painter(failures=2))
    assert outcome.entry["attempt"] == 2
    assert outcome.failures[0] == "seed 0 scene 0 attempt 0: the paint is out"
    with h5py.File(tmp_path / outcome.entry["file"]) as file:
        assert file.attrs["attempt"] == 2


@pytest.mark.parametrize(
    ("gray", "reason"), [(0.001, "4 of 4 views are too dark"), (np.nan, "not finite")]
)
def test_useless_images_never_reach_a_file(tiny_config, tmp_path, gray, reason):
    outcome = make(tiny_config, tmp_path, Painter(gray))
    assert outcome.entry is None and len(outcome.failures) == ATTEMPTS
    assert reason in outcome.failures[0]
    assert not list(tmp_path.iterdir())


def test_dark_views_are_left_out(tiny_config, tmp_path):
    class HalfDark(Painter):
        def render(self, scene, seed):
            images = super().render(scene, seed)
            images[1] = 0
            return images

    outcome = make(tiny_config, tmp_path, HalfDark(), write_json=True)
    scene = load_h5(tmp_path / outcome.entry["file"])
    assert len(scene.fov_degrees) == 3
    description = json.loads((tmp_path / "json/scene_00000000/scene.json").read_text())
    np.testing.assert_allclose([c["fov"] for c in description["cameras"]], scene.fov_degrees)


def test_a_full_disk_ends_the_run(tiny_config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(h5, "_write", full)
    with pytest.raises(InputError, match=r"scene_00000000\.h5.*No space left"):
        make(tiny_config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_scene_that_kills_its_worker_is_replaced(tiny_config, tmp_path, monkeypatch):
    """The scenes that ran beside it are made as usual; only the guilty one is replaced."""
    spawn = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor
    monkeypatch.setattr(workers, "_pool", lambda *_: executor(2, spawn))
    monkeypatch.setattr(workers, "work", dying_worker.work)
    options = RunOptions(tmp_path, 2)
    outcomes = list(workers.outcomes(tiny_config, options, "", [0, 1, 2, 3, 4]))
    attempts = {outcome.index: outcome.entry["attempt"] for outcome in outcomes}
    assert attempts == {0: 0, 1: 0, 2: 2, 3: 0, 4: 0}
    failures = {outcome.index: outcome.failures for outcome in outcomes if outcome.failures}
    assert list(failures) == [2]
    for attempt, failure in enumerate(failures[2]):
        assert f"scene 2 attempt {attempt}: its worker process died" in failure


def test_a_worker_that_dies_between_two_scenes_loses_none(tiny_config, tmp_path, monkeypatch):
    """The first to learn of it is what submits the next scene."""
    calls = itertools.count()

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *arguments):
            if next(calls) == 4:
                raise BrokenProcessPool
            return super().submit(*arguments)

    monkeypatch.setattr(workers, "_pool", lambda *_: Pool(2))
    monkeypatch.setattr(workers, "work", lambda index, attempt: Outcome(index, {}, ()))
    outcomes = list(workers.outcomes(tiny_config, RunOptions(tmp_path, 2), "", list(range(9))))
    assert sorted(outcome.index for outcome in outcomes) == list(range(9))


def test_failures_are_in_the_log(tiny_config, tmp_path, monkeypatch):
    died = "seed 0 scene 0 attempt 0: its worker process died"
    made = (Outcome(0, {"index": 0}, (died,)) for _ in range(1))
    monkeypatch.setattr(dataset, "outcomes", lambda *_: made)
    make_dataset(dataclasses.replace(tiny_config, num_scenes=1), RunOptions(tmp_path, 1))
    assert (tmp_path / "failures.log").read_text() == f"{died}\n"


def test_splits_follow_the_fractions(tiny_config):
    config = dataclasses.replace(tiny_config, val_fraction=0.1, test_fraction=0.2)
    names = [split_name(config, index) for index in range(4000)]
    assert abs(names.count("val") / 4000 - 0.1) < 0.02
    assert abs(names.count("test") / 4000 - 0.2) < 0.02
    more = dataclasses.replace(config, num_scenes=9)
    assert names[:9] == [split_name(more, index) for index in range(9)]


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A dataset of three scenes, made by two worker processes."""
    folder = tmp_path_factory.mktemp("finished")
    make_dataset(tiny_config, RunOptions(folder, 2))
    return folder


def index_of(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def written(folder):
    """When each file of a dataset was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("scene_*.h5")}


def test_a_run(finished):
    assert [entry["index"] for entry in index_of(finished)] == [0, 1, 2]
    for entry in index_of(finished):
        scene = load_scene(finished / entry["file"])  # as `render.py` does
        assert len(scene.triangles) == entry["triangles"] <= 512
    assert not list(finished.glob(".scene*"))


def test_finished_files_are_never_redone_and_runs_can_grow(tiny_config, finished):
    before = written(finished)
    program = """
import os, sys
from rf_jax.files import atomic_path
with atomic_path(sys.argv[1]):
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", program, str(finished / "scene_00000003.h5")])
    assert len(list(finished.glob(".scene_*"))) == 1
    (finished / "index.jsonl").write_text('{"half a li')
    entries = make_dataset(dataclasses.replace(tiny_config, num_scenes=4), RunOptions(finished, 1))
    after = written(finished)
    assert {name: after[name] for name in before} == before and len(after) == 4
    assert index_of(finished) == entries and len(entries) == 4
    assert not list(finished.glob(".scene*"))


def test_another_configuration_is_refused(tiny_config, finished):
    render = dataclasses.replace(tiny_config.render, spp=5)
    message = (
        r"a dataset of another configuration \(render.spp differ\); choose another --output_dir"
    )
    with pytest.raises(InputError, match=message):
        make_dataset(dataclasses.replace(tiny_config, render=render), RunOptions(finished, 1))
    kept = (finished / "config.json").rename(finished / "elsewhere")
    try:
        with pytest.raises(InputError, match=r"another configuration \(seed differ\)"):
            make_dataset(dataclasses.replace(tiny_config, seed=7), RunOptions(finished, 1))
    finally:
        kept.rename(finished / "config.json")


def test_inspect(finished):
    report = inspect_dataset(finished)
    assert "files are valid" in report and "roughness" in report
    sheet = load_png(finished / "contact_sheet.png")
    assert sheet.shape[1] == 8 * 16 and sheet.any()
    assert load_png(finished / "histograms.png").shape[0] > 300
    damaged = finished / "scene_00000099.h5"
    damaged.write_bytes((finished / "scene_00000000.h5").read_bytes()[:5000])
    try:
        with pytest.raises(InputError, match=r"1 of \d+ files are invalid"):
            inspect_dataset(finished)
    finally:
        damaged.unlink()


def test_inspect_needs_a_dataset(tmp_path):
    with pytest.raises(InputError, match="found none"):
        inspect_dataset(tmp_path)


def test_two_runs_cannot_share_a_folder(tiny_config, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another run is writing"):
        make_dataset(tiny_config, RunOptions(tmp_path, 1))


def test_a_folder_that_cannot_be_written(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/sub: cannot be written"):
        make_dataset(tiny_config, RunOptions(tmp_path / "file" / "sub", 1))


def test_dry_run(tiny_config):
    report = dry_run(dataclasses.replace(tiny_config, num_scenes=20), 1)
    assert report.startswith("20 scenes, 0 failed: ") and "light radiance" in report


MANY = 10**4
"""More scenes than can be made before a run is killed, however late."""


@pytest.mark.slow
def test_killing_the_generator_loses_nothing(tmp_path):
    """The command is killed once, or RF_JAX_KILLS times; each takes about eight seconds."""
    rng, done = np.random.default_rng(0), {}
    for _ in range(KILLS):
        with subprocess.Popen(_command(tmp_path, MANY), stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(written(tmp_path)) == len(done):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        assert len(done) < len(written(tmp_path)) and done.items() <= written(tmp_path).items()
        done = written(tmp_path)
        for path in tmp_path.glob("scene_*.h5"):
            load_h5(path), load_images(path)
    scenes = len(done) + 4
    end = subprocess.run(_command(tmp_path, scenes), capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert f"{scenes} scenes (" in end.stdout
    assert done.items() <= written(tmp_path).items()
    assert [entry["index"] for entry in index_of(tmp_path)] == list(range(scenes))


@pytest.mark.slow
def test_interrupting_the_generator_changes_no_image(tmp_path):
    """Ctrl-C reaches every process of a terminal; none may store what it had rendered until then.

    The second quick Ctrl-C has nothing left to wait for.
    """
    rng, spp = np.random.default_rng(1), 1024  # about a second per scene
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "interrupted"
    for twice in (False, True):
        before = len(written(folder))
        process = subprocess.Popen(
            _command(folder, MANY, spp), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while process.poll() is None and len(written(folder)) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGINT)
        if twice:
            time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err, err
    scenes = len(written(folder)) + 2
    for each in (folder, undisturbed):
        subprocess.run(_command(each, scenes, spp), stderr=subprocess.DEVNULL, check=True)
    for path in sorted(undisturbed.glob("scene_*.h5")):
        views = range(len(load_h5(path).fov_degrees))
        expected, found = (load_images(p, views) for p in (path, folder / path.name))
        np.testing.assert_array_equal(found, expected)


def _command(folder, num_scenes, spp=256):
    settings = {
        "num_scenes": num_scenes,
        "render.variant": "scalar_rgb",
        "render.resolution": 16,
        "render.spp": spp,
        "render.denoise": False,
    }
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    config = str(CONFIGS / "data_tiny.py")
    program = [sys.executable, "-m", "rf_jax.datagen", "--config", config, "--num_workers=2"]
    return [*program, f"--output_dir={folder}", *overrides]


@pytest.mark.parametrize("entry", [None, 5, "[", '{"index": "x"}', "[" * 10**4, '{"a": 1, "a": 2}'])
def test_a_file_without_its_entry(tmp_path, entry):
    with h5py.File(tmp_path / "scene_0.h5", "w") as file:
        if entry is not None:
            file.attrs["index_entry"] = entry
    with pytest.raises(InputError, match=r"scene_0\.h5: (expected a training file|attribute )"):
        finished_entries(tmp_path)
