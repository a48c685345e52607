"""The programs that `rf_jax.studies.gpu_rates` times: attention, both stages, a training step."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.attention import get_attention
from rf_jax.attention.registry import exact_flops
from rf_jax.models import VARIANTS, RenderFormer, RenderFormerConfig, init_variables
from rf_jax.models.flops import context_flops, view_flops, view_independent_flops
from rf_jax.models.layers import FeedForward
from rf_jax.models.swiglu import fused_swiglu
from rf_jax.planning.programs import blank_perceptual
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.rendering.renderer import PRECISIONS
from rf_jax.rendering.sharding import device_mesh
from rf_jax.rendering.stages import cast_variables, encode, for_platform, render
from rf_jax.scene.random_scene import random_scene
from rf_jax.studies.step_rate import random_batch
from rf_jax.training.config import TrainingConfig
from rf_jax.training.loop import compile_steps
from rf_jax.training.sharding import make_mesh
from rf_jax.training.steps import make_model

GRADIENT_FLOPS = 3.5
"""Operations of attention with its gradient, over those of attention: 7 products to 2."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to time.

    Attributes:
      part: "attention", "feed-forward", "stage" or "training".
      network: whose sizes it has; a name of `VARIANTS` or of a configuration.
      what: the attention function and pass, the stage, or the step.
      precision: type of the matrix products.
      size: keys, or triangles of a scene.
      flops: the operations that are needed.
      lower: traces and lowers the program.
      arguments: makes what it runs on.
      steps: whether it takes its first result as its first argument again, and destroys that one.
    """

    part: str
    network: str
    what: str
    precision: str
    size: int
    flops: float
    lower: Callable[[], jax.stages.Lowered]
    arguments: Callable[[], tuple]
    steps: bool = False

    @property
    def name(self) -> str:
        return f"{self.network}, {self.what}, {self.precision}, {self.size:,}"


def attention_cases(variant: str, names: list[str], sizes: list[int]) -> Iterator[Case]:
    """Attention of as many queries as keys, for one scene, and the same with its gradient."""
    stage = VARIANTS[variant].view_independent
    heads, width = stage.num_heads, stage.width
    for size in sizes:
        shape = (1, size, heads, width // heads)
        flops = exact_flops(size, size, width, heads, None)
        for precision in ("bf16", "fp16"):
            array = jax.ShapeDtypeStruct(shape, PRECISIONS[precision])
            for name in names:
                labels = "attention", variant, name, precision, size
                forward = get_attention(name).bind()
                yield from _with_gradient(labels, flops, GRADIENT_FLOPS, forward, (array,) * 3)


def feed_forward_cases(variant: str, sizes: list[int]) -> Iterator[Case]:
    """SwiGLU of so many tokens by XLA's products and by one kernel, and with its gradient."""
    stage = VARIANTS[variant].view_independent
    for size in sizes:
        flops = 6.0 * size * stage.width * stage.hidden_dim
        for precision in ("bf16", "fp16"):
            dtype = PRECISIONS[precision]
            x = jax.ShapeDtypeStruct((1, size, stage.width), dtype)
            for name, swiglu in (("auto", None), ("fused", fused_swiglu)):
                layer = FeedForward(dataclasses.replace(stage, swiglu=swiglu), dtype)
                variables = jax.eval_shape(layer.init, jax.random.key(0), x)
                variables = jax.eval_shape(lambda v, d=dtype: cast_variables(v, d), variables)
                labels = "feed-forward", variant, name, precision, size
                yield from _with_gradient(labels, flops, 3, layer.apply, (variables, x))


def stage_cases(
    variant: str, precisions: list[str], sizes: list[int], resolution: int
) -> Iterator[Case]:
    """Both stages on random scenes, one view at a time."""
    config = VARIANTS[variant]
    mesh = device_mesh(jax.devices()[:1])
    for precision in precisions:
        dtype = PRECISIONS[precision]
        model = RenderFormer(config, dtype)
        variables = _abstract_variables(config, dtype)
        for size in sizes:
            tokens = prepare_scene(random_scene(size), config)
            first = functools.partial(encode, model, mesh=mesh)
            flops = view_independent_flops(config, size) + context_flops(config, size)
            arguments = (variables, tokens)
            labels = variant, "view-independent", precision, size
            yield _case("stage", *labels, flops, first, arguments)

            encoding = jax.eval_shape(first, *arguments)
            lengths = tokens.num_triangles + config.num_register_tokens
            encoding = encoding.replace(num_tokens=lengths)
            scene = random_scene(1)
            cameras = scene.camera_to_world[None], scene.fov_degrees[None]
            second = functools.partial(render, model, resolution=resolution, mesh=mesh, split=False)
            flops = view_flops(config, size, resolution)
            labels = variant, f"view of {resolution}x{resolution}", precision, size
            yield _case("stage", *labels, flops, second, (variables, encoding, *cameras))


def training_case(name: str, config: TrainingConfig) -> Case:
    """A training step on one device, LPIPS included if the loss has it."""
    model, data = config.model, config.data
    mesh = make_mesh(1, config.batch_size, jax.devices()[:1])
    with blank_perceptual(config) as perceptual:
        distance, weights = perceptual and perceptual.distance, perceptual and perceptual.params
    steps = compile_steps(config, mesh, make_model(config, mesh), distance)
    batch = random_batch(config)
    scene = view_independent_flops(model, data.max_triangles)
    scene += context_flops(model, data.max_triangles)
    scene += data.views * view_flops(model, data.max_triangles, data.crop or data.resolution)
    return Case(
        "training",
        name,
        f"step of {config.batch_size} scenes, {model.feed_forward} feed-forward",
        config.precision,
        data.max_triangles,
        3 * config.batch_size * scene,
        lambda: steps.train.lower(steps.abstract_state, batch, weights),
        lambda: (filled(steps.abstract_state), batch, weights),
        steps=True,
    )


def filled(tree: Any) -> Any:
    """Arrays in place of `jax.ShapeDtypeStruct`: small random numbers, and zeros for integers.

    Others are kept. The numbers repeat after a million, because drawing more takes long and makes
    no difference to the time of a program.
    """
    block = np.random.default_rng(0).normal(0, 0.02, 2**20).astype(np.float32)

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.resize(jnp.asarray(block, leaf.dtype), leaf.shape)

    return jax.tree.map(fill, tree)


def _with_gradient(labels, flops, factor, forward, arguments) -> Iterator[Case]:
    """A function, and the gradient of the sum of its result by all arguments.

    Args:
      labels: part, network, name, precision and size.
      flops: operations of the function.
      factor: those of the gradient, the function included, over these.
      forward, arguments: the function, and the shapes that it takes.
    """
    part, network, name, precision, size = labels

    def total(*arrays):
        return forward(*arrays).astype(jnp.float32).sum()

    gradient = jax.grad(total, tuple(range(len(arguments))))
    programs = ("forward", flops, forward), ("forward and backward", factor * flops, gradient)
    for label, needed, program in programs:
        what = f"{name} {label}"
        yield _case(part, network, what, precision, size, needed, program, arguments)


def _case(part, network, what, precision, size, flops, program, arguments) -> Case:
    lower = functools.partial(_lower, program, arguments)
    make = functools.partial(filled, arguments)
    return Case(part, network, what, precision, size, flops, lower, make)


def _lower(program: Callable, arguments: tuple) -> jax.stages.Lowered:
    return jax.jit(program).lower(*arguments)


def _abstract_variables(config: RenderFormerConfig, dtype: Any) -> dict[str, Any]:
    platform = jax.devices()[0].platform
    return jax.eval_shape(
        lambda: for_platform(
            cast_variables(init_variables(config, jax.random.key(0)), dtype), platform
        )
    )
