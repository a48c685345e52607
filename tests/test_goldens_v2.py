"""RenderFormer V2 against a rebuild of the PyTorch original, stage by stage, in float32.

Two small references are in the repository; a folder with more is taken from RF_JAX_GOLDENS_V2.
"""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from rf_jax.models import RenderFormer
from rf_jax.rendering.preprocess_v2 import prepare_scenes_v2
from rf_jax.structs import Environment, SceneV2, VolumeCells
from rf_jax.weights.pretrained import load_pretrained

BUNDLED = Path(__file__).parent / "data" / "goldens_v2"
SHARED = Path(__file__).parents[2] / "shared" / "goldens_v2"
MORE = Path(os.environ.get("RF_JAX_GOLDENS_V2", SHARED))
CASES = {"tiny": 1e-5, "all_features": 1e-5, "published_constants": 1e-5, "short_no_volumes": 1e-5}
CASES |= {"no_env_rounded": 2e-5}
CPU_EPS = float(np.finfo(np.float32).eps)
"""The epsilon of the encoders' norms with which the references were made."""

STAGES = {
    "sequence": "sequence",
    "positions": "positions",
    "tokens": "view_independent_tokens",
    "taps": "decoder_taps",
    "output": "network_output",
}


class Golden:
    """One reference: its network, inputs and expected outputs."""

    def __init__(self, name: str, eps: float = CPU_EPS, changed: str | None = None):
        folder = (BUNDLED if (BUNDLED / name).is_dir() else MORE) / name
        if not folder.is_dir():
            pytest.skip(f"no reference {folder}; name their folder in RF_JAX_GOLDENS_V2")
        self.variables, config, _ = load_pretrained(folder / "checkpoint")
        v2 = dataclasses.replace(config.v2, encoder_norm_eps=eps)
        self.config = dataclasses.replace(config, v2=v2)
        self.inputs = dict(np.load(folder / "inputs.npz"))
        self.expected = dict(np.load(folder / "expected.npz"))
        if changed:
            same = {name: x for name, x in self.expected.items() if name not in STAGES.values()}
            self.expected = same | dict(np.load(folder / changed))
        self.scenes = [self._scene(i) for i in range(len(self.inputs["triangles"]))]
        self.cameras = self.inputs["c2w"], self.inputs["fov"][..., 0]

    def _scene(self, i):
        mask = self.inputs["mask"][i]
        given = {name: self.inputs[name][i] for name in self.inputs if name != "resolution"}
        environment = volumes = None
        if "env_latent_ldr" in given:
            strength = given["env_lighting_strength"]
            environment = Environment(given["env_latent_ldr"], given["env_latent_hdr"], strength)
        if "volume_mask" in given:
            names = (field.name for field in dataclasses.fields(VolumeCells))
            cells = (given[f"volume_{name}"][given["volume_mask"]] for name in names)
            volumes = VolumeCells(*cells)
        return SceneV2(
            triangles=given["triangles"][mask],
            vertex_normals=given["vn"][mask],
            textures=given["texture"][mask],
            texture_index=np.arange(mask.sum()),
            emission=given["light_strength"][mask],
            environment=environment,
            volumes=volumes,
            camera_to_world=given["c2w"],
            fov_degrees=given["fov"][..., 0],
        )

    def run(self, chosen=None, **network):
        """The stages of the chosen scenes, all by default, with the names of `STAGES`."""
        chosen = np.arange(len(self.scenes)) if chosen is None else np.array(chosen)
        tokens = prepare_scenes_v2([self.scenes[i] for i in chosen], self.config)
        model = RenderFormer(self.config, **network)

        @jax.jit
        def apply(variables, tokens, *cameras):
            encoding, extra = model.apply(
                variables, tokens, method=RenderFormer.encode_scene, mutable="intermediates"
            )
            resolution = int(self.inputs["resolution"])
            image, taps = model.apply(
                variables, encoding, *cameras, resolution, method=RenderFormer.render_view
            )
            (first,) = extra["intermediates"]["view_independent"]["sequence"]
            return first, encoding, taps, image

        cameras = (camera[chosen] for camera in self.cameras)
        first, encoding, taps, image = jax.device_get(apply(self.variables, tokens, *cameras))
        stages = {
            "sequence": first.tokens,
            "positions": first.positions,
            "tokens": encoding.tokens,
            "taps": taps,
            "output": image.reshape(-1, *image.shape[2:]).transpose(0, 3, 1, 2),
        }
        ids = self._places(chosen, first, tokens.triangles.shape[1])
        return stages, ids, (first.lengths, first.sinks.lengths)

    def _places(self, chosen, first, num_padded):
        """Each token's place among the triangles of the input; -1 for other tokens."""
        ids = np.array(first.ids)
        for row, i in zip(ids, chosen, strict=True):
            valid = np.flatnonzero(self.inputs["mask"][i])
            is_triangle = (row >= 0) & (row < len(valid))
            assert (is_triangle | (row < 0) | (row >= num_padded) | (row == 0)).all()
            row[:] = np.where(is_triangle, valid[np.where(is_triangle, row, 0)], -1)
        return ids


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def assert_matches(golden, chosen, tolerance, **network):
    stages, ids, (lengths, sink_lengths) = golden.run(chosen, **network)
    rows = np.arange(len(golden.scenes)) if chosen is None else chosen
    expected, views = golden.expected, golden.cameras[1].shape[1]
    assert np.array_equal(lengths, expected["sequence_lengths"][rows])
    assert np.array_equal(sink_lengths, expected["sink_lengths"][rows])
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        assert np.array_equal(ids[b, :length], expected["triangle_ids"][row, :length])
    for stage, name in STAGES.items():
        if name not in expected:
            continue
        if stage in ("sequence", "positions", "tokens"):
            pairs = zip(rows, lengths, strict=True)
            wanted = np.concatenate([expected[name][row, :n] for row, n in pairs])
            found = [x[:n] for x, n in zip(stages[stage], lengths, strict=True)]
            found = np.concatenate(found)
        else:
            by_view = np.concatenate([np.arange(views) + row * views for row in rows])
            axis = 1 if stage == "taps" else 0
            wanted, found = expected[name].take(by_view, axis), stages[stage]
        error = relative_error(found, wanted)
        assert found.shape == wanted.shape and error <= tolerance, (stage, error)


@pytest.mark.parametrize(("name", "tolerance"), CASES.items())
def test_every_stage_matches(name, tolerance):
    assert_matches(Golden(name), None, tolerance)


@pytest.mark.parametrize("name", ["tiny", "all_features"])
def test_scenes_alone_match_too(name):
    golden = Golden(name)
    for i in range(len(golden.scenes)):
        assert_matches(golden, [i], CASES[name])


def test_the_epsilon_of_fused_norms():
    assert_matches(Golden("no_env_rounded", 1e-6, "expected_eps_1e-6.npz"), None, 2e-5)
