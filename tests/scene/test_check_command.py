"""python -m rf_jax.scene check and to_json."""

import numpy as np

from rf_jax.scene import load_scene, save_h5
from rf_jax.scene.to_json import save_json

CHECK = "rf_jax.scene"


def test_a_bundled_scene(command):
    status, out, err = command(CHECK, "check", "cornell_box")
    assert (status, err) == (0, "")
    assert "97 triangles, 7 named objects, 1 triangles that emit, 1 views" in out
    assert "coordinates: x -0.5 to 0.577, y -0.845 to 0.5, z -0.5 to 2.45" in out
    rows = [line.split() for line in out.splitlines()]
    colour = ["0.6", "0.0588", "0.0471"]
    assert ["left_wall", "8", "0", "1", "1", *colour, "0", "0", "0", "1"] in rows
    assert ["light", "1", "0.5", "-0.8", "2.42", "2.6", "3,700", "3,700", "3,700"] in rows
    assert ["0", "0", "-2", "0", "2", "38"] in rows
    for weights in ("the bundled network", "the published networks"):
        assert f"compared with {weights}:\n  nothing to warn of\n" in out


def test_a_file_without_names(command, tmp_path):
    scene = load_scene("cornell_box").replace(fov_degrees=np.float32([90]))
    save_h5(scene, tmp_path / "a.h5")
    status, out, _ = command(CHECK, "check", "a.h5", "blue_room", "--checkpoint", "weights")
    assert status == 2
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "variables").mkdir()
    (tmp_path / "weights" / "config.json").write_text(
        '{"trained_on": {"resolution": 64, "fov": [30, 60]}}'
    )
    status, out, _ = command(CHECK, "check", "a.h5", "blue_room", "--checkpoint", "weights")
    assert status == 0 and out.count("(no names)") == 2
    warning = "a field of view of 90 degrees: the weights saw 30 to 60"
    assert f"compared with weights:\n  {warning}\n" in out
    assert "nothing to warn of" in out and "blue_room" in out


def test_no_such_scene(refused):
    assert "none.json: no such scene" in refused(CHECK, "check", "none.json")


def test_to_json(command, tmp_path):
    """A room ten times as large comes back to its size; a file that is there stays."""
    scene = load_scene("cornell_box")
    save_json(scene.replace(triangles=10 * scene.triangles), tmp_path / "large.json")
    arguments = (CHECK, "to_json", "large.json", "--output_dir", "new")
    status, out, _ = command(*arguments, "--fit")
    assert status == 0 and out.startswith("scaled by 0.1 and moved by")
    assert "7 objects -> new/large.json" in out
    found = load_scene(tmp_path / "new" / "large.json")
    np.testing.assert_allclose(found.triangles, scene.triangles, atol=1e-5)
    before = (tmp_path / "new" / "large.json").read_bytes()
    status, _, err = command(*arguments)
    assert status == 2 and "large.json: exists already" in err
    assert (tmp_path / "new" / "large.json").read_bytes() == before
    assert "--fit: is for to_json" in command(CHECK, "check", "large.json", "--fit")[2]
