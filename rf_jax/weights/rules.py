"""The parts of the conversion that networks share: which PyTorch tensor is which Flax leaf.

PyTorch layouts: Linear [out, in], Conv [out, in, kh, kw], ConvTranspose [in, out, kh, kw].
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

Transform = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Changes the layout from PyTorch to Flax, and back."""

SAME: Transform = (lambda x: x, lambda x: x)
LINEAR: Transform = (np.transpose, np.transpose)
CONV: Transform = (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
CONV_TRANSPOSE: Transform = (
    lambda x: x.transpose(0, 2, 3, 1),
    lambda x: x.transpose(0, 3, 1, 2),
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one tensor is in both projects.

    Attributes:
      torch_name: its name in PyTorch's state dict.
      path: the path of its Flax leaf, joined by "/", beginning with the collection.
      layer: its index along the leading axis of a stacked leaf; None if the leaf is not stacked.
      transform: the change of layout.
    """

    torch_name: str
    path: str
    layer: int | None
    transform: Transform


def linear_rules(torch, flax, has_bias, layer=None) -> Iterator[Rule]:
    """The rules for a linear layer."""
    yield Rule(f"{torch}.weight", f"{flax}/kernel", layer, LINEAR)
    if has_bias:
        yield Rule(f"{torch}.bias", f"{flax}/bias", layer, SAME)


def conv_rules(torch, flax, has_bias=True, transform=CONV) -> Iterator[Rule]:
    """The rules for a convolution."""
    yield Rule(f"{torch}.weight", f"{flax}/kernel", None, transform)
    if has_bias:
        yield Rule(f"{torch}.bias", f"{flax}/bias", None, SAME)


def norm_rules(torch, flax, norm_type, layer=None) -> Iterator[Rule]:
    """The rules for a norm; "none" has no variables."""
    if norm_type == "none":
        return
    yield Rule(f"{torch}.weight", f"{flax}/scale", layer, SAME)
    if norm_type == "layer_norm":
        yield Rule(f"{torch}.bias", f"{flax}/bias", layer, SAME)
