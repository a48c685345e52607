"""Windows, and the invariances of the stages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rf_jax.models import VARIANTS, RenderFormer
from rf_jax.models.view_independent import token_positions
from rf_jax.models.windows import (
    merge_windows,
    partition_windows,
    window_attention,
    window_mask,
)
from rf_jax.structs import SceneTokens, expand_texture
from rf_jax.weights.random_weights import random_variables

CONFIG = VARIANTS["testing"]


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("side", [8, 24])
def test_windows_round_trip(side, shift):
    x = jnp.arange(2 * side**2 * 3, dtype=jnp.float32).reshape(2, side**2, 3)
    windows = partition_windows(x, side, shift)
    assert windows.shape == (2 * (side // 8) ** 2, 64, 3)
    assert np.array_equal(merge_windows(windows, side, shift), x)


@pytest.mark.parametrize("side", [8, 16, 24])
def test_mask_allows_exactly_the_pairs_that_are_neighbours_in_the_image(side):
    """After the roll, a pair may see each other when the roll moved both by the same amount."""
    rolled = (np.arange(side) + 4) % side  # the image row that stands at each rolled row
    wrapped = rolled < 4
    row, column = np.divmod(np.arange(side**2), side)
    piece = np.stack([wrapped[row], wrapped[column]], axis=-1)
    windows = np.asarray(partition_windows(jnp.asarray(piece[None], jnp.float32), side, 0))
    expected = (windows[:, :, None] == windows[:, None]).all(-1)
    assert np.array_equal(window_mask(side), expected)


def test_shifted_windows_equal_dense_attention_over_the_allowed_pairs():
    side, rng = 16, np.random.default_rng(0)
    x = rng.normal(size=(1, side**2, 3 * 2 * 4)).astype(np.float32)

    def split(t):
        return jnp.split(t.reshape(*t.shape[:2], 3, 2, 4), 3, axis=2)

    windows = partition_windows(jnp.asarray(x), side, 4)
    heads = [t[:, :, 0] for t in split(windows)]
    out = window_attention(4, side)(*heads, None)
    out = merge_windows(out.reshape(*out.shape[:2], -1), side, 4)[0]
    query, key, value = (np.asarray(t[0, :, 0], np.float64) for t in split(jnp.asarray(x)))
    index = np.arange(side)
    window = (index + 4) // 8  # unwrapped shifted windows: border windows are cut, never joined
    row, column = np.divmod(np.arange(side**2), side)
    allowed = (window[row][:, None] == window[row]) & (window[column][:, None] == window[column])
    scores = np.einsum("qhd,khd->hqk", query, key) / 2
    weights = np.where(allowed, np.exp(scores), 0)
    expected = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(out, expected.reshape(side**2, -1), atol=1e-5)


def test_register_positions_are_the_mean_of_valid_triangles():
    triangles = np.random.default_rng(1).normal(size=(2, 5, 3, 3)).astype(np.float32)
    counts = np.array([3, 5], np.int32)
    positions = np.asarray(token_positions(triangles, counts, 2))
    assert positions.shape == (2, 7, 9)
    for row, count in enumerate(counts):
        center = triangles[row, :count].mean((0, 1))
        np.testing.assert_allclose(positions[row, :2], np.tile(center, (2, 3)), atol=1e-4)
    assert np.array_equal(positions[:, 2:], triangles.reshape(2, 5, 9))


def small_scene(rng, count=6, texture_shape=(13,)):
    texture = rng.uniform(0, 1, (1, count, *texture_shape)).astype(np.float32)
    return SceneTokens(
        triangles=rng.uniform(-0.5, 0.5, (1, count, 3, 3)).astype(np.float32),
        vertex_normals=rng.normal(size=(1, count, 3, 3)).astype(np.float32),
        texture=texture,
        num_triangles=np.array([count], np.int32),
    )


CAMERAS = np.eye(4, dtype=np.float32)[None, None].repeat(2, 1)
CAMERAS[0, :, 2, 3] = 1.5, 1.8
FOV = np.array([[40.0, 55.0]], np.float32)


@pytest.fixture(scope="module")
def render():
    variables = random_variables(CONFIG, seed=1)
    model = RenderFormer(CONFIG)
    apply = jax.jit(lambda *args: model.apply(variables, *args, 64))
    return lambda scene, cameras=CAMERAS, fov=FOV: np.asarray(apply(scene, cameras, fov))


def test_triangle_order_carries_no_meaning(render):
    scene = small_scene(np.random.default_rng(2))
    order = np.random.default_rng(3).permutation(6)
    shuffled = scene.replace(
        triangles=scene.triangles[:, order],
        vertex_normals=scene.vertex_normals[:, order],
        texture=scene.texture[:, order],
    )
    np.testing.assert_allclose(render(scene), render(shuffled), atol=2e-5)


def test_views_together_equal_views_alone(render):
    scene = small_scene(np.random.default_rng(4))
    together = render(scene)
    for view in range(2):
        alone = render(scene, CAMERAS[:, view : view + 1], FOV[:, view : view + 1])
        np.testing.assert_allclose(alone[:, 0], together[:, view], atol=2e-5)


def test_one_value_a_triangle_equals_its_constant_patch(render):
    scene = small_scene(np.random.default_rng(5))
    patches = scene.replace(texture=expand_texture(scene.texture, CONFIG.texture_encode_patch_size))
    assert patches.texture.shape[-2:] == (2, 2)
    np.testing.assert_allclose(render(patches), render(scene), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "count"),
    [("v1_base", 205_173_391), ("v1.1_large_swin", 483_269_903), ("v2_200m", 207_578_027)],
)
def test_published_parameter_counts(name, count):
    from rf_jax.weights.convert import variable_shapes

    assert sum(int(np.prod(shape)) for shape in variable_shapes(VARIANTS[name]).values()) == count


def test_unrolled_layers_compute_the_same():
    """With rematerialisation the loop stays, where it takes the least memory."""
    variables, scene = random_variables(CONFIG, seed=6), small_scene(np.random.default_rng(7))
    constants = {"constants": variables["constants"]}

    def traced(**options):
        model = RenderFormer(CONFIG, **options)

        def loss(params, scene):
            variables = {"params": params, **constants}
            return jnp.square(model.apply(variables, scene, CAMERAS, FOV, 32)).sum()

        return jax.jit(jax.grad(loss)).trace(variables["params"], scene)

    def unrolls(program):
        return set(re.findall(r"unroll=(\d+)", str(program.jaxpr)))

    loop, unrolled = traced(), traced(unroll=True)
    assert unrolls(loop) == unrolls(traced(unroll=True, remat=True)) == {"1"}
    assert unrolls(unrolled) > {"1"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        *(program.lower().compile()(variables["params"], scene) for program in (unrolled, loop)),
    )
