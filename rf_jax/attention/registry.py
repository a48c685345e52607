"""The description of an attention function, so that no other module has to know it by name.

`rf_jax/attention/__init__.py` tells how to add one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import struct

from rf_jax import schema

AttentionFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
"""attention_fn(query, key, value, key_lengths); see `rf_jax.attention` for the contract."""


@struct.dataclass
class Sinks:
    """The first tokens of each sequence, where they stand apart: all others read them.

    Attributes:
      lengths: [B] int32, how many of the tokens are sinks.
      most: an upper bound of the lengths, known when a program is traced.
      summarised: whether there are summaries of all other tokens among them.
    """

    lengths: jax.Array
    most: int = struct.field(pytree_node=False)
    summarised: bool = struct.field(pytree_node=False, default=False)


def exact_flops(queries: int, keys: int, width: int, num_heads: int, options: Any) -> float:
    """Floating-point operations of softmax attention: the scores and the weighted values.

    Args:
      queries, keys: numbers of valid tokens.
      width: nh hd.
      num_heads: nh.
      options: the function's options; softmax attention has none.
    """
    return 4 * queries * keys * width


@dataclasses.dataclass(frozen=True)
class Attention:
    """An attention function, and what it needs from the network around it.

    Only `name` and `function` are needed for a function without variables and options.

    Attributes:
      name: the name in configurations and on command lines; variables are kept under it too.
      function: an `AttentionFn`. If there are options, it takes them as the keyword `options`. A
        function with variables is the class of a Linen module that is constructed with the options,
        if there are any, and whose `__call__` is an `AttentionFn`. Its `params` are trained, its
        `constants` are not, and both are saved.
      options: an instance of a frozen dataclass, with the values in use; None without options.
        Configurations hold each option as NAME_OPTION, for example `performer_features`.
      has_variables: whether `function` is the class of a Linen module.
      exact: whether it computes softmax attention up to rounding, so that weights trained with one
        exact function can be used with any other.
      rows_per_device: whether each device must run it on its own rows of the batch, because XLA
        cannot split it. Hand-written kernels need this.
      sums_keys: whether the keys enter only sums, which `function` also takes over the devices of a
        mesh axis if it is given the axis as the keyword `axis_name`: keys and values are then those
        of its device, and lengths those of all devices. Tokens of other functions are split by
        gathering the keys and values, if the functions are exact (`rf_jax.attention.sharding`).
      tells_cross: whether `function` takes the keyword `cross`, because it reads the queries as a
        whole: True if they are not the tokens of the keys, and then all are valid; False if they
        are, and then they have the lengths of the keys.
      context_axis: for cross attention, the mesh axis over whose devices the keys and values of a
        layer are split when they reach it; the layer gathers them. None if every device has all.
      token_order: whether neighbouring tokens should be near to each other in space; triangles are
        then sorted along a Hilbert curve.
      self_only: whether it is only for tokens that attend to themselves, in the view-independent
        stage.
      reads_sinks: whether `function` takes `Sinks` as its fifth argument, or None. Such a function
        must be `self_only`.
      flops: gives the number of floating-point operations for (queries, keys, width, num_heads,
        options), see `exact_flops`, and if the function reads sinks for `Sinks` with as many.
      redraw: draws its random constants anew during training; takes the network's whole tree of
        constants and a key, and returns the new tree.
      torch_names: the names of variables in PyTorch files, after the name of the attention module.
        Variables that are not listed are called NAME.VARIABLE there.
      recognize: gives the options that the tensors of a PyTorch file (name -> shape) imply, or None
        if the file has no variables of this function; for files that do not name their attention.
    """

    name: str
    function: Callable[..., Any]
    options: Any = None
    has_variables: bool = False
    exact: bool = False
    rows_per_device: bool = False
    sums_keys: bool = False
    tells_cross: bool = False
    context_axis: str | None = None
    token_order: bool = False
    self_only: bool = False
    reads_sinks: bool = False
    flops: Callable[..., float] = exact_flops
    redraw: Callable[[Any, jax.Array], Any] | None = None
    torch_names: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    recognize: Callable[[Mapping[str, tuple[int, ...]]], Any] | None = None

    @property
    def most_lights(self) -> int:
        """How many lights are sinks at most: the option `lights` of a function that reads sinks."""
        return getattr(self.options, "lights", 0) if self.reads_sinks else 0

    @property
    def rotates(self) -> bool:
        """Whether RoPE turns queries and keys: yes, unless the option `rotated` is off."""
        return getattr(self.options, "rotated", True)

    def bind(self, cross: bool = False) -> AttentionFn:
        """The function with its options, for a layer to call.

        A function with variables must be bound inside a compact method of the layer, which then
        owns the variables.

        Args:
          cross: whether the queries are other tokens than the keys, as in cross attention.
        """
        keywords = {"cross": cross} if self.tells_cross else {}
        if self.has_variables:
            options = () if self.options is None else (self.options,)
            return self.function(*options, **keywords, name=self.name)
        if self.options is not None:
            keywords["options"] = self.options
        return functools.partial(self.function, **keywords) if keywords else self.function

    def with_options(self, chosen: tuple[Any, ...]) -> "Attention":
        """This function with those of the chosen options that are its own, if there are any.

        Args:
          chosen: options of several functions, at most one of each type.
        """
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
        """Makes the options from the keys of a configuration; ignores all other keys.

        Must not be called on a function without options.
        """
        prefix = f"{self.name}_"
        chosen = {key: values[key] for key in self.option_hints() if key in values}
        return type(self.options)(**{k.removeprefix(prefix): v for k, v in chosen.items()})
