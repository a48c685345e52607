"""An attention function that nothing but its registry entry knows goes all the way through."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from settings import MODEL, small_config, train

from rf_jax.attention import ATTENTIONS, Attention
from rf_jax.attention.dot_product import dot_product_attention
from rf_jax.config_files import parse_config, to_config_dict
from rf_jax.errors import InputError
from rf_jax.models import RenderFormerConfig
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene.random_scene import random_scene
from rf_jax.training.config import TrainingConfig
from rf_jax.training.loop import train_and_evaluate
from rf_jax.weights import convert
from rf_jax.weights.pretrained import load_pretrained, with_attention


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    offset_scale: float = 0.1


class ToyAttention(nn.Module):
    """Exact attention with a learned gain per head and a random constant offset."""

    options: ToyOptions

    @nn.compact
    def __call__(self, query, key, value, key_lengths=None):
        gain = self.param("gain", nn.initializers.ones, (query.shape[2],), jnp.float32)
        offset = self.variable("constants", "offset", self._draw, query.shape[3])
        out = dot_product_attention(query, key, value, key_lengths) * gain[:, None]
        return (out + self.options.offset_scale * offset.value).astype(query.dtype)

    def _draw(self, head_dim):
        return jax.random.normal(self.make_rng("params"), (head_dim,))


def redraw(constants, rng):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.random.normal(rng, x.shape) if path[-1].key == "offset" else x,
        constants,
    )


TOY = Attention(
    "toy",
    ToyAttention,
    options=ToyOptions(),
    has_variables=True,
    token_order=True,
    redraw=redraw,
    torch_names={"gain": "toy_gain"},
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The one line: naming it in the registry."""
    monkeypatch.setitem(ATTENTIONS, "toy", TOY)


@pytest.fixture
def model(registered):
    values = MODEL.to_dict() | {"view_independent_attention": "toy", "toy_offset_scale": 0.2}
    return RenderFormerConfig.from_dict(values)


def toy_leaves(variables):
    leaves = traverse_util.flatten_dict(variables, sep="/")
    return {path: np.asarray(leaf) for path, leaf in leaves.items() if "/toy/" in path}


def test_its_options_are_keys_of_their_own(model):
    assert model.view_independent.attention.options == ToyOptions(0.2)
    assert model.to_dict()["toy_offset_scale"] == 0.2
    values = to_config_dict(TrainingConfig(model=model, data=small_config("x").data)).to_dict()
    assert values["model"]["toy_offset_scale"] == 0.2
    values["model"]["toy_offset_scale"] = "much"
    with pytest.raises(InputError, match=r"config\.model\.toy_offset_scale: expected a number"):
        parse_config(TrainingConfig, values)


def test_it_trains_saves_resumes_is_sharded_and_renders(model, data, tmp_path):
    config = small_config(data, model=model, total_steps=4, performer_redraw_every_steps=3)
    straight = train(config, tmp_path / "straight")
    train(dataclasses.replace(config, total_steps=2), tmp_path / "resumed")
    resumed = train(config, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    sharded = dataclasses.replace(config, fsdp=2)
    sharded = train_and_evaluate(sharded, tmp_path / "sharded", jax.devices()[:2])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        straight.variables,
        sharded.variables,
    )
    leaves = toy_leaves(straight.variables)
    assert len(leaves) == 2
    for path, leaf in leaves.items():
        before = toy_leaves(load_pretrained(tmp_path / "resumed").variables)[path]
        np.testing.assert_array_equal(leaf, before)
        assert path.startswith("constants/") or not np.array_equal(leaf, np.ones_like(leaf))
    renderer = Renderer.from_pretrained(tmp_path / "resumed")
    assert renderer.render(random_scene(5), 16).shape == (1, 1, 16, 16, 3)
    assert not renderer.approximates_exact_weights
    with pytest.raises(InputError, match=r"does not read the learned .*toy/gain"):
        Renderer.from_pretrained(tmp_path / "resumed", attention="auto")


def test_it_converts_both_ways(model):
    exact = convert.fresh_leaves(MODEL, convert.variable_shapes(MODEL))
    exact = traverse_util.unflatten_dict(exact, sep="/")
    config = dataclasses.replace(MODEL, attention_options=model.attention_options)
    variables, config = with_attention(exact, config, "toy,auto")
    assert config == model and len(toy_leaves(variables)) == 2
    tensors = convert.to_torch(variables, model)
    prefix = "transformer.layers.0.multihead_attn"
    assert {f"{prefix}.toy_gain", f"{prefix}.toy.offset"} <= tensors.keys()
    jax.tree.map(np.testing.assert_array_equal, convert.from_torch(tensors, model), variables)


def test_its_triangles_follow_a_curve(model):
    scene = random_scene(200)
    plain, ordered = prepare_scene(scene, MODEL), prepare_scene(scene, model)

    def steps(tokens):
        centers = tokens.triangles[0, :200].mean(1)
        return np.linalg.norm(np.diff(centers, axis=0), axis=1).mean()

    assert steps(ordered) < 0.4 * steps(plain)
    for name in ("triangles", "vertex_normals", "texture"):
        before, after = (
            getattr(tokens, name)[0].reshape(len(tokens.texture[0]), -1)
            for tokens in (plain, ordered)
        )
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
