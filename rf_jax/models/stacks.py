"""The layers of a stage as one scanned program, with variables stacked along a leading axis.

A layer of `rf_jax.models.transformer` is written for one layer's variables. `nn.scan` runs it L
times, so the program is compiled once however deep the stage is, and every variable of the layer
becomes one leaf [L, ...]. That is the layout of variables everywhere: in checkpoints, for the
optimizer and in the conversion of weights. An attention function with variables is part of the
layer, so its variables are stacked in the same way.

Shifted windows need more, because layers alternate between two window shifts and a shift must be
known when the program is traced. There the scan runs over periods of layers, usually pairs, and
the layers of a period are unrolled (`DecoderPeriod`). Variables are reshaped on the way in and out:

    stored     leaf [L, ...]
    _fold      leaf [L / period, period, ...]; the scan takes a slice [period, ...] at each step
    _split     {"layer0": leaf [...], "layer1": leaf [...]}, the submodules of `DecoderPeriod`

A loop over layers copies each layer's weights out of the stacked leaves, which a GPU notices. A
program that takes the leaves apart (`split_layers`), stacks them again (`join_layers`) and unrolls
its loops contains no such copies, because XLA cancels a slice of what was stacked. It takes twice
as long to compile.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rf_jax.models.config import WINDOW_SIZE, TransformerConfig
from rf_jax.models.transformer import ContextProjection, DecoderLayer, EncoderLayer

_STACKS = ("layers", "context")
"""The names of the modules whose variables are stacked."""

COLLECTIONS = ("params", "constants")
"""The collections of a network's variables: those that are trained, and those that are not."""

# Arguments of nn.scan: variables, and the intermediates of layers, have a leading axis of layers.
_STACKED = dict(
    variable_axes={**dict.fromkeys(COLLECTIONS, 0), "intermediates": 0},
    split_rngs={"params": True},
)


def encoder_layers(
    config: TransformerConfig, dtype: jnp.dtype, remat: bool, name: str, unroll: bool = False
) -> Any:
    """All layers of the view-independent stage, as a module that is called as an `EncoderLayer`."""
    scanned = nn.scan(
        _maybe_remat(EncoderLayer, remat),
        in_axes=nn.broadcast,
        length=config.depth,
        unroll=unroll,
        **_STACKED,
    )
    return scanned(config, dtype, name=name)


def context_projections(config: TransformerConfig, dtype: jnp.dtype, unroll: bool = False) -> Any:
    """The projections of all layers, as a module that is called as a `ContextProjection`.

    Its keys and values have a leading axis L. The scan carries nothing from layer to layer, but
    unlike a vmap it holds the normed tokens of only one layer at a time.
    """
    scanned = nn.scan(
        ContextProjection,
        in_axes=nn.broadcast,
        length=config.depth,
        unroll=unroll,
        **_STACKED,
    )
    return scanned(config, dtype)


def decoder_layers(
    config: TransformerConfig,
    dtype: jnp.dtype,
    include_self_attention: bool,
    windowed: bool,
    remat: bool,
    initializing: bool,
    unroll: bool = False,
) -> Any:
    """All layers of the view-dependent stage, as a module for `run_decoder_layers`.

    Args:
      config, dtype, include_self_attention: the fields of `DecoderLayer`.
      windowed: whether rays attend to rays in shifted windows.
      remat: whether the gradient computes each layer again instead of storing it.
      initializing: whether the network's variables are being made.
      unroll: whether the loop over the layers is unrolled.
    """
    fields = config, dtype, include_self_attention
    scan = dict(**_STACKED, in_axes=(0, *[nn.broadcast] * 3), unroll=unroll)
    if not windowed:
        layers = nn.scan(_maybe_remat(DecoderLayer, remat), length=config.depth, **scan)
        return layers(*fields, None)
    period = window_period(config.depth)
    shifts = tuple(i % 2 * (WINDOW_SIZE // 2) for i in range(period))

    def map_variables(module, *functions):
        trans_in, trans_out = (functools.partial(f, period=period) for f in functions)
        return nn.map_variables(module, COLLECTIONS, trans_in, trans_out, init=initializing)

    layers = map_variables(DecoderPeriod, _split_layers, _join_layers)
    layers = nn.scan(layers, length=config.depth // period, **scan)
    return map_variables(layers, _fold, _unfold)(*fields, shifts, remat)


def run_decoder_layers(
    layers: Any,
    windowed: bool,
    x: jax.Array,
    context: tuple[jax.Array, jax.Array],
    *inputs: Any,
) -> jax.Array:
    """Runs the layers of the view-dependent stage.

    Args:
      layers: the result of `decoder_layers`.
      windowed: the argument that it was made with.
      x: [B V, P, D] ray tokens.
      context: keys and values [L, B, S, nh, hd] of `context_projections`.
      inputs: the other arguments of a `DecoderLayer`.

    Returns:
      the residual stream after each layer, [L, B V, P, D].
    """
    if not windowed:
        return layers(x, context, *inputs)[1]
    period = window_period(len(context[0]))
    return _unfold(layers(x, _fold(context, period), *inputs)[1], period)


def window_period(depth: int) -> int:
    """Number of layers that are unrolled, so that their window shifts are known when tracing.

    Every second layer is shifted, so this is 2, or all layers if their number is odd.
    """
    return 2 if depth % 2 == 0 else depth


class DecoderPeriod(nn.Module):
    """The layers of one period of the window shifts, unrolled.

    Attributes:
      config, dtype, include_self_attention: the fields of `DecoderLayer`.
      shifts: the window shift of each layer, in patches.
      remat: whether the gradient computes each layer again instead of storing it.
    """

    config: TransformerConfig
    dtype: jnp.dtype
    include_self_attention: bool
    shifts: tuple[int, ...]
    remat: bool

    @nn.compact
    def __call__(self, x, context, *inputs):
        """As a `DecoderLayer`, except that context and tapped stream have a leading axis [period].

        Args:
          x: [B V, P, D] ray tokens.
          context: keys and values [period, B, S, nh, hd].
          inputs: the other arguments of a `DecoderLayer`.
        """
        stream = []
        layer_class = _maybe_remat(DecoderLayer, self.remat)
        for i, shift in enumerate(self.shifts):
            layer = layer_class(
                self.config, self.dtype, self.include_self_attention, shift, name=f"layer{i}"
            )
            x, tap = layer(x, jax.tree.map(lambda a, i=i: a[i], context), *inputs)
            stream.append(tap)
        return x, jnp.stack(stream)


def split_layers(variables: Any) -> Any:
    """Variables with a tuple of one leaf per layer in place of each stacked leaf [L, ...]."""

    def split(path, leaf):
        layered = any(getattr(key, "key", None) in _STACKS for key in path)
        return tuple(leaf) if layered else leaf

    return jax.tree_util.tree_map_with_path(split, variables)


def join_layers(variables: Any) -> Any:
    """Undoes `split_layers`."""
    return jax.tree.map(
        lambda leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf,
        variables,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def _maybe_remat(layer: type[nn.Module], remat: bool) -> type[nn.Module]:
    return nn.remat(layer, prevent_cse=False) if remat else layer


def _split_layers(variables, period):
    """{collection: leaves [period, ...]} -> {collection: {layer0: leaves, ...}}."""

    def split(tree):
        return {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], tree) for i in range(period)}

    return {name: split(tree) for name, tree in variables.items() if tree}


def _join_layers(variables, period):
    """The inverse of `_split_layers`.

    While variables are being made, other entries may lie beside the layers; these are left out.
    """

    def join(tree):
        layers = (tree[f"layer{i}"] for i in range(period))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    return {name: join(tree) for name, tree in variables.items() if "layer0" in tree}


def _fold(tree, period):
    """Leaves [L, ...] -> [L / period, period, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, period, *x.shape[1:]), tree)


def _unfold(tree, period):
    """The inverse of `_fold`; takes the period because `nn.map_variables` passes it to both."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
