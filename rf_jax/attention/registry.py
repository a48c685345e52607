"""What an attention function says about itself, so that nothing else need know it by name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rf_jax import schema

AttentionFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
"""attention_fn(query, key, value, key_lengths); `rf_jax.attention` has the contract."""


def exact_flops(queries: int, keys: int, width: int, num_heads: int, options: Any) -> float:
    """Operations of softmax attention: scores and weighted values."""
    return 4 * queries * keys * width


@dataclasses.dataclass(frozen=True)
class Attention:
    """An attention function and what it needs of the network around it.

    Attributes:
      name: what configurations and command lines call it; its variables are kept under this name.
      function: an `AttentionFn`. One with options takes them as the keyword `options`. One with
        variables is the class of a Linen module, constructed with the options if there are any,
        whose `__call__` is an `AttentionFn`; its parameters are trained, its `constants` are not.
      options: its options, a frozen dataclass; None if it has none. Configurations hold an option
        as NAME_OPTION, for example `performer_features`.
      has_variables: whether `function` is a Linen module.
      exact: whether it computes softmax attention up to rounding, so that weights trained with one
        exact function can be used with any other.
      rows_per_device: whether each device must run it on its own rows of the batch, because XLA
        cannot split it (hand-written kernels do not split). Not for functions with variables.
      token_order: whether it wants neighbouring tokens to be near to each other in space; the
        triangles are then sorted along a Hilbert curve.
      flops: counts its operations from (queries, keys, width, num_heads, options).
      redraw: gives new values to its random constants; takes a network's whole tree of constants
        and a key.
      torch_names: variable -> name in PyTorch files, below the attention module's; other variables
        are called NAME.VARIABLE there.
      recognize: gives the options that the shapes of a PyTorch file's tensors, by name, imply; None
        if the file has no variables of this function. For files that do not name their attention.
    """

    name: str
    function: Callable[..., Any]
    options: Any = None
    has_variables: bool = False
    exact: bool = False
    rows_per_device: bool = False
    token_order: bool = False
    flops: Callable[[int, int, int, int, Any], float] = exact_flops
    redraw: Callable[[Any, jax.Array], Any] | None = None
    torch_names: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    recognize: Callable[[Mapping[str, tuple[int, ...]]], Any] | None = None

    def bind(self) -> AttentionFn:
        """The function that a layer calls; inside a compact method of a Linen module."""
        options = () if self.options is None else (self.options,)
        if self.has_variables:
            return self.function(*options, name=self.name)
        return functools.partial(self.function, options=self.options) if options else self.function

    def with_options(self, chosen: tuple[Any, ...]) -> "Attention":
        """This function with its own options out of those chosen for several functions."""
        mine = [options for options in chosen if type(options) is type(self.options)]
        return dataclasses.replace(self, options=mine[0]) if mine else self

    def option_hints(self) -> dict[str, Any]:
        """The types of the options, by their keys in configurations."""
        hints = {} if self.options is None else schema.flat_hints(type(self.options))
        return {f"{self.name}_{key}": hint for key, hint in hints.items()}

    def option_values(self) -> dict[str, Any]:
        """The values of the options, by their keys in configurations."""
        values = {} if self.options is None else schema.to_dict(self.options)
        return {f"{self.name}_{key}": value for key, value in values.items()}

    def parse_options(self, values: Mapping[str, Any]) -> Any:
        """The options that a configuration's keys give; those of other functions are ignored."""
        prefix = f"{self.name}_"
        chosen = {key: values[key] for key in self.option_hints() if key in values}
        return type(self.options)(**{k.removeprefix(prefix): v for k, v in chosen.items()})


def shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape, for `Attention.recognize`."""
    return {name: np.shape(tensor) for name, tensor in tensors.items()}
