"""Rotated values and projected positions: what must not matter, and what stays finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rf_jax.attention.latent import LatentOptions
from rf_jax.attention.pooled import PooledOptions
from rf_jax.attention.sliding_sink import SlidingSinkOptions
from rf_jax.errors import InputError
from rf_jax.geometry import generate_rays, project_points
from rf_jax.models import VARIANTS, RenderFormer, RenderFormerConfig
from rf_jax.models.encodings import inverse, rope_rotation, rotate
from rf_jax.models.view_dependent import patch_centers
from rf_jax.structs import SceneTokens
from rf_jax.weights.random_weights import random_variables

CONFIG = dataclasses.replace(
    VARIANTS["testing"],
    num_layers=1,
    view_transformer_n_layers=2,
    use_dpt_decoder=False,
    use_vn_encoder=False,  # normals are not invariant under a motion
    vdir_num_freqs=0,
    rotate_values=True,
    view_positions="projected",
    view_frequencies=(2.0, 6.0),
)


def scene(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return SceneTokens(
        triangles=rng.uniform(-0.5, 0.5, (1, count, 3, 3)).astype(np.float32),
        vertex_normals=np.zeros((1, count, 3, 3), np.float32),
        texture=rng.uniform(0, 1, (1, count, 13)).astype(np.float32),
        num_triangles=np.array([count], np.int32),
    )


CAMERA = np.eye(4, dtype=np.float32)[None, None]
CAMERA[..., 2, 3] = 1.5


def render(config, tokens, camera=CAMERA, fov=40.0, crop=None, resolution=64):
    variables = random_variables(config, seed=1)
    model = RenderFormer(config)

    def both(variables, tokens):
        encoding = model.apply(variables, tokens, method=RenderFormer.encode_scene)
        fovs = jnp.full(camera.shape[:2], fov, jnp.float32)
        arguments = encoding, jnp.asarray(camera), fovs, resolution, crop
        return model.apply(variables, *arguments, method=RenderFormer.render_view)[0]

    return np.asarray(jax.jit(both)(variables, tokens))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_projection_is_the_pixel_that_sees_the_point():
    fov = jnp.array([50.0])
    rays = generate_rays(jnp.eye(3)[None], fov, 8)  # (1, 8, 8, 3)
    seen = project_points(3.0 * rays, fov[:, None, None])
    pixels = (np.arange(8) + 0.5) / 4 - 1
    np.testing.assert_allclose(seen[0, 0, :, 0], pixels, atol=1e-5)
    np.testing.assert_allclose(seen[0, :, 0, 1], -pixels, atol=1e-5)
    np.testing.assert_allclose(seen[..., 2], 1 / (-3.0 * rays[..., 2]), rtol=1e-5)
    centers = patch_centers(rays, fov, 4)
    expected = [[-0.5, 0.5, 0], [0.5, 0.5, 0], [-0.5, -0.5, 0], [0.5, -0.5, 0]]
    np.testing.assert_allclose(centers[0], expected, atol=1e-5)


def test_points_beside_and_behind_the_camera_stay_finite():
    points = jnp.array([[1.0, 2, 3], [5, 0, -1e-9], [0, 0, 0], [1e6, -1e6, 1e6], [0, 1, -4]])
    for function in (project_points, jax.jacobian(lambda p, f: project_points(p, f).sum())):
        assert np.isfinite(function(points, jnp.float32(60.0))).all()
    assert np.abs(project_points(points, jnp.float32(60.0))).max() <= 4


def test_inverse_undoes_a_rotation():
    rng = np.random.default_rng(0)
    rotation = rope_rotation(jnp.float32(rng.normal(size=(2, 5, 9))), jnp.array([1.0, 4]), 40)
    x = jnp.float32(rng.normal(size=(2, 5, 3, 40)))
    np.testing.assert_allclose(rotate(rotate(x, rotation), inverse(rotation)), x, atol=1e-5)


LINEAR = [
    ("sliding_sink", SlidingSinkOptions(window=1, block=2, lights=1)),
    ("pooled", PooledOptions(block=2)),
    ("latent", LatentOptions(latents=3, rotated=False)),
]


def with_attention(name, *options):
    return dataclasses.replace(CONFIG, view_independent_attention=name, attention_options=options)


@pytest.mark.parametrize("attention", [("auto",), *LINEAR], ids=lambda a: a[0])
def test_the_first_stage_does_not_see_a_translation(attention):
    """Values that turn with their keys and back with the query know differences alone."""
    config = with_attention(*attention)
    tokens, model = scene(), RenderFormer(config)
    variables = random_variables(config, seed=1)
    moved = tokens.replace(triangles=tokens.triangles + np.float32([0.3, -0.2, 0.1]))
    encode = jax.jit(lambda t: model.apply(variables, t, method=RenderFormer.encode_scene).tokens)
    registers = CONFIG.num_register_tokens
    valid = slice(0, registers + 6)
    assert relative(encode(moved)[:, valid], encode(tokens)[:, valid]) < 1e-4
    elsewhere = tokens.replace(triangles=tokens.triangles * np.float32([1, 1, 1.1]))
    assert relative(encode(elsewhere)[:, valid], encode(tokens)[:, valid]) > 1e-3


def test_views_do_not_see_a_rigid_motion():
    """The camera moves along; stage one sees positions too, so it is left where it was."""
    tokens, config = scene(), CONFIG
    rotation = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix().astype(np.float32)
    motion = np.eye(4, dtype=np.float32)
    motion[:3, :3], motion[:3, 3] = rotation, [0.4, 0.1, -0.3]
    variables, model = random_variables(config, seed=1), RenderFormer(config)

    def view(triangles, camera):
        encoding = model.apply(variables, tokens, method=RenderFormer.encode_scene)
        encoding = encoding.replace(triangles=triangles)
        arguments = encoding, camera, jnp.full((1, 1), 40.0), 64
        return model.apply(variables, *arguments, method=RenderFormer.render_view)[0]

    view = jax.jit(view)
    moved = tokens.triangles @ rotation.T + motion[:3, 3]
    assert relative(view(moved, motion @ CAMERA), view(tokens.triangles, CAMERA)) < 1e-3


def test_a_zoom_on_the_middle_is_the_middle_of_the_view():
    """Half the tangent of the field of view doubles what is on the image, patch by patch."""
    fov, points = 40.0, scene().triangles - np.float32([0, 0, 1.5])
    narrow = np.degrees(2 * np.arctan(np.tan(np.radians(fov / 2)) / 2))
    wide = project_points(points, jnp.float32(fov))
    close = project_points(points, jnp.float32(narrow))
    np.testing.assert_allclose(close[..., :2], np.clip(2 * wide[..., :2], -4, 4), atol=1e-4)
    np.testing.assert_array_equal(close[..., 2], wide[..., 2])


def test_a_crop_has_the_positions_of_its_view():
    origin = jnp.full((1, 1, 2), 16, jnp.int32)
    rays = generate_rays(jnp.eye(3)[None], jnp.array([40.0]), 64)
    whole = patch_centers(rays, jnp.array([40.0]), 8).reshape(8, 8, 3)
    part = patch_centers(rays[:, 16:48, 16:48], jnp.array([40.0]), 8).reshape(4, 4, 3)
    np.testing.assert_allclose(part, whole[2:6, 2:6], atol=1e-6)
    assert render(CONFIG, scene(), crop=(origin, 32)).shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"view_transformer_use_swin_attn": True},
        {"view_independent_attention": "flash", "view_dependent_attention": "flash"},
        {"view_independent_attention": "performer", "view_dependent_attention": "performer"},
        *({"view_independent_attention": n, "attention_options": (o,)} for n, o in LINEAR),
    ],
    ids=str,
)
def test_every_attention_works_and_has_finite_gradients(changes):
    config = dataclasses.replace(CONFIG, **changes)
    variables, model, tokens = random_variables(config, 1), RenderFormer(config), scene()

    def loss(variables, triangles):
        arguments = tokens.replace(triangles=triangles), CAMERA, jnp.full((1, 1), 40.0), 64
        return jnp.log1p(jnp.abs(model.apply(variables, *arguments))).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        variables, jnp.asarray(tokens.triangles)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients[1]).max() > 0


def test_tokens_know_where_triangles_are():
    latents = LatentOptions(rotated=False)
    with pytest.raises(InputError, match="rotate_values: must be true with latent_rotated = false"):
        dataclasses.replace(with_attention("latent", latents), rotate_values=False)


def test_published_networks_have_neither():
    for config in VARIANTS.values():
        assert not config.rotate_values and config.view_positions == "camera"
        assert not {"rotate_values", "view_positions", "view_frequencies"} & config.to_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"turn_to_cam_coord": False},
            "view_positions: .*need turn_to_cam_coord",
        ),
        ({"pe_type": "nerf"}, 'rotate_values: needs pe_type "rope", found "nerf"'),
        ({"view_frequencies": [1.0]}, "view_frequencies: expected 2, .*found 1"),
        ({"view_frequencies": [1.0, -2.0]}, r"view_frequencies\[1\]: expected a number > 0"),
        ({"view_positions": "world"}, 'view_positions: expected one of "camera", "projected"'),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RenderFormerConfig.from_dict(CONFIG.to_dict() | changes)
