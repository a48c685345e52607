"""The network against what the PyTorch original computes, stage by stage, in float32.

Two small references are in the repository; a folder with more is taken from RF_JAX_GOLDENS.
"""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from rf_jax.attention import get_attention
from rf_jax.models import RenderFormer
from rf_jax.rendering.renderer import Renderer
from rf_jax.structs import EMISSION, Scene, SceneTokens
from rf_jax.weights.pretrained import load_pretrained

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("optimizations")

BUNDLED = Path(__file__).parent / "data" / "goldens"
MORE = Path(os.environ.get("RF_JAX_GOLDENS", Path(__file__).parents[2] / "shared" / "goldens"))
MORE_CASES = (
    "base_full_attention",
    "large_swin",
    "wide_heads",
    "no_dpt_alpha",
    "nerf_pe_gelu_layernorm",
    "ldr_no_vn_no_qknorm",
)


class Golden:
    """One reference: its network, inputs and expected outputs."""

    def __init__(self, folder: Path, variables=None, config=None):
        if variables is None:
            variables, config, _ = load_pretrained(folder / "checkpoint")
        self.variables, self.config = variables, config
        self.inputs = dict(np.load(folder / "inputs.npz"))
        self.expected = dict(np.load(folder / "expected.npz"))
        self.cameras = self.inputs["c2w"], self.inputs["fov"][..., 0]
        self.resolution = int(self.inputs["resolution"])

    def scene(self, extra_padding: int = 0) -> SceneTokens:
        """The network's input; more padding is random numbers that nothing may read."""
        texture = np.array(self.inputs["texture"])
        if self.config.texture_encode_patch_size == 1:
            texture = texture[..., 0, 0]
        if not self.config.use_ldr:
            texture[:, :, EMISSION] = np.log10(1 + texture[:, :, EMISSION])
        rng = np.random.default_rng(0)

        def pad(array):
            shape = (array.shape[0], extra_padding, *array.shape[2:])
            return np.concatenate([array, rng.normal(size=shape).astype(np.float32)], axis=1)

        arrays = map(pad, (self.inputs["triangles"], self.inputs["vn"], texture))
        return SceneTokens(*arrays, self.inputs["mask"].sum(1).astype(np.int32))

    def run(self, scene: SceneTokens, cameras=None, **network):
        """Tokens of valid triangles, decoder taps and image [B V, C, H, W] of the network."""
        model = RenderFormer(self.config, **network)

        @jax.jit
        def apply(variables, scene, camera_to_world, fov_degrees):
            encoding = model.apply(variables, scene, method=RenderFormer.encode_scene)
            image, taps = model.apply(
                variables,
                encoding,
                camera_to_world,
                fov_degrees,
                self.resolution,
                method=RenderFormer.render_view,
            )
            return encoding.tokens, taps, image

        cameras = self.cameras if cameras is None else cameras
        tokens, taps, image = map(np.asarray, apply(self.variables, scene, *cameras))
        lengths = scene.num_triangles + self.config.num_register_tokens
        tokens = np.concatenate([row[:length] for row, length in zip(tokens, lengths, strict=True)])
        return tokens, taps, image.reshape(-1, *image.shape[2:]).transpose(0, 3, 1, 2)

    def expected_stages(self):
        mask = self.inputs["mask"]
        registers = np.ones((len(mask), self.config.num_register_tokens), bool)
        valid = np.concatenate([registers, mask], axis=1)
        return (
            self.expected["view_independent_tokens"][valid],
            self.expected["decoder_taps"],
            self.expected["network_output"],
        )


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def assert_stages_match(actual, expected, tolerance=TOLERANCE):
    for stage, a, e in zip(("tokens", "taps", "output"), actual, expected, strict=True):
        assert a.shape == e.shape, stage
        assert relative_error(a, e) <= tolerance, stage


@pytest.fixture(
    scope="module",
    params=[BUNDLED / "tiny_full", BUNDLED / "tiny_swin", *(MORE / case for case in MORE_CASES)],
    ids=lambda folder: folder.name,
)
def golden(request):
    if not request.param.is_dir():
        pytest.skip(f"no reference {request.param}; name their folder in RF_JAX_GOLDENS")
    return Golden(request.param)


def test_every_stage_matches(golden):
    assert_stages_match(golden.run(golden.scene()), golden.expected_stages())


def test_more_padding_changes_nothing(golden):
    assert_stages_match(golden.run(golden.scene(extra_padding=19)), golden.expected_stages())


def test_renderer_gives_the_decoded_image(golden):
    inputs = golden.inputs
    scene = Scene(
        triangles=inputs["triangles"],
        vertex_normals=inputs["vn"],
        texture=inputs["texture"],
        valid_mask=inputs["mask"],
        camera_to_world=inputs["c2w"],
        fov_degrees=inputs["fov"][..., 0],
    )
    image = Renderer(golden.variables, golden.config).render(scene, golden.resolution)
    assert image.shape == golden.expected["image"].shape
    assert relative_error(image, golden.expected["image"]) <= 2 * TOLERANCE


@pytest.mark.parametrize("name", ["tiny_full", "base_full_attention"])
def test_scenes_alone_equal_scenes_in_a_batch(name):
    folder = (BUNDLED if name == "tiny_full" else MORE) / name
    if not folder.is_dir():
        pytest.skip(f"no reference {folder}; name their folder in RF_JAX_GOLDENS")
    golden = Golden(folder)
    scene, (camera_to_world, fov_degrees) = golden.scene(), golden.cameras
    assert len(camera_to_world) > 1
    _, _, expected = golden.expected_stages()
    views = camera_to_world.shape[1]
    for i in range(len(camera_to_world)):
        alone = jax.tree.map(lambda array, i=i: array[i : i + 1], scene)
        cameras = camera_to_world[i : i + 1], fov_degrees[i : i + 1]
        image = golden.run(alone, cameras)[2]
        assert relative_error(image, expected[i * views : (i + 1) * views]) <= TOLERANCE


def test_flash_attention_matches_too(golden):
    flash = get_attention("flash")
    stages = golden.run(
        golden.scene(), view_independent_attention=flash, view_dependent_attention=flash
    )
    assert_stages_match(stages, golden.expected_stages())


@pytest.mark.parametrize("extra_padding", [0, 23])
def test_performer_fork_matches(extra_padding, tmp_path):
    folder = MORE / "performer_fork_pt"
    if not folder.is_dir():
        pytest.skip(f"no reference {folder}; name their folder in RF_JAX_GOLDENS")
    source = folder / "checkpoint" / "checkpoint_epoch_5.pt"
    variables, config, _ = load_pretrained(source, folder / "checkpoint" / "config.json")
    golden = Golden(folder, variables, config)
    assert golden.config.view_independent_attention == "performer"
    assert_stages_match(golden.run(golden.scene(extra_padding)), golden.expected_stages())


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_stays_close(dtype, tolerance):
    golden = Golden(BUNDLED / "tiny_full")
    actual = golden.run(golden.scene(), dtype=jax.numpy.dtype(dtype))
    assert_stages_match(actual, golden.expected_stages(), tolerance)
    assert all(stage.dtype == np.float32 for stage in actual)
