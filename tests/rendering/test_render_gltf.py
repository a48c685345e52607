"""render.py and scene check with glTF files, and --fit."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from rf_jax.images.files import load_exr, save_exr
from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.fit import Fit, apply_fit, find_fit
from rf_jax.trained_on import PUBLISHED
from rf_jax.weights.pretrained import save_hugging_face_folder
from tests.scene.gltf.test_gltf_load import BLENDER


@pytest.fixture
def file(tmp_path):
    return Path(shutil.copy(BLENDER, tmp_path / "thing.glb"))


@pytest.fixture
def render(command, config, variables, tmp_path):
    """Renders the second view of a scene with a small network of random weights."""
    save_hugging_face_folder(tmp_path / "weights", variables, config.to_dict())
    options = ("--checkpoint", "weights", "--resolution", 32, "--views", 1, "--devices", 1)
    options += ("--output_dir", "out")
    return lambda *arguments: command("render.py", *arguments, *options)


def image(tmp_path, name="thing"):
    return load_exr(tmp_path / "out" / f"{name}_view_1.exr")


def test_a_fitted_file(render, file, tmp_path, caplog):
    """It gives the image of its fitted scene, which --save_h5 writes; the table is printed once."""
    status, out, _ = render(file, "--fit", "--save_h5")
    assert status == 0 and "991 triangles, 1 views" in out
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("thing.glb: 5 meshes -> 6 objects, 988 triangles") == 1
    assert sum("thing: scaled by 0." in message for message in messages) == 1
    fitted = image(tmp_path)
    render(tmp_path / "out" / "thing.h5")
    np.testing.assert_allclose(np.log10(1 + image(tmp_path)), np.log10(1 + fitted), atol=5e-3)
    expected = find_fit(load_scene(file), PUBLISHED)
    scene = apply_fit(load_scene(file), expected)
    np.testing.assert_allclose(
        load_scene(tmp_path / "out" / "thing.h5").triangles, scene.triangles, atol=1e-6
    )


def test_ground_truth_is_brightened_with_the_scene(render, file, tmp_path, monkeypatch):
    """The truth lies beside the file, in its units; it is compared in those of the image."""
    fit = Fit(0.1, (0.0, 0.0, 0.0), 3.0)
    monkeypatch.setattr("rf_jax.rendering.files.find_fit", lambda *_: fit)
    render(file, "--fit")
    save_exr(tmp_path / "thing_truth_view_1.exr", image(tmp_path) / 3)
    _, out, _ = render(file, "--fit")
    decibels = re.search(r"thing: PSNR ([\d.]+|inf) dB", out)[1]
    assert float(decibels) > 60


def test_frames_share_the_fit_of_the_first(render, file, tmp_path):
    """An animation stays one: a thing that grows does not shrink back."""
    scene = load_scene(file)
    for frame, size in enumerate((1, 2)):
        save_h5(scene.replace(triangles=size * scene.triangles), tmp_path / "f" / f"{frame}.h5")
    assert render("f", "--fit", "--save_h5")[0] == 0
    one, two = (load_scene(tmp_path / "out" / f"{i}.h5").triangles for i in (0, 1))
    np.testing.assert_allclose(np.ptp(two, axis=(0, 1)), 2 * np.ptp(one, axis=(0, 1)), rtol=1e-5)


def test_the_check_shows_the_table(command, file):
    status, out, err = command("rf_jax.scene", "check", file)
    assert (status, err) == (0, "")
    assert re.search(r"5 meshes +->  6 objects, 988 triangles\n", out)
    assert re.search(r"point light bulb +->  a triangle of radiance", out)
    published = out.partition("compared with the published networks:\n")[2]
    as_it_is, _, with_fit = published.partition("with --fit, scaled by 0.2055 and moved by ")
    assert "coordinates up to 3: the weights saw at most 0.5" in as_it_is
    assert "coordinates" not in with_fit and "lights at 0.69 to 0.788 from" in with_fit


def test_a_damaged_file(refused, file, tmp_path):
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    assert "thing.glb: announces" in refused("render.py", file)
    assert "thing.glb: announces" in refused("rf_jax.scene", "check", file)
