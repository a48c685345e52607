"""What a compiled program keeps in the memory of each device, by kind."""

from typing import Any

import jax
import numpy as np

from rf_jax.planning.hlo import Computation, Instruction, Module

_FORWARD, _BACKWARD = "jvp(", "transpose(jvp("
"""How the paths of operations begin that JAX derives for the forward and for the backward pass."""

_ALIASES = {"bitcast", "get-tuple-element", "tuple", "opt-barrier"}


def tree_bytes(tree: Any) -> int:
    """Bytes on each device of a tree of `jax.ShapeDtypeStruct` with shardings."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize


def activation_bytes(module: Module) -> int:
    """Bytes of what a gradient keeps of its forward pass, on each device; 0 without a gradient.

    That is every value that an operation of the forward pass makes and one of the backward pass
    reads. Values that pass through a loop unchanged, such as weights, do not count.
    """
    return max(_kept_bytes(module, running) for running in _running(module, module.entry))


def _running(module: Module, name: str) -> list[Computation]:
    """A computation, and the bodies of all loops that it runs."""
    computation = module.computations[name]
    bodies = [x.body for x in computation if x.opcode == "while"]
    return [computation, *(inner for body in bodies for inner in _running(module, body))]


def _kept_bytes(module: Module, computation: Computation) -> int:
    values = _values(module, computation)
    kept = {
        value
        for instruction in computation
        if _BACKWARD in instruction.source and instruction.opcode not in _ALIASES
        for operand in instruction.operands
        for value in values.get(operand, ())
        if _is_forward(computation[value[0]])
    }
    return sum(computation[name].shapes[i].bytes for name, i in kept)


def _is_forward(instruction: Instruction) -> bool:
    return _FORWARD in instruction.source and _BACKWARD not in instruction.source


def _values(module: Module, computation: Computation) -> dict[str, tuple[tuple[str, int], ...]]:
    """The values that each instruction's result consists of: (name of their origin, index there).

    Instructions that compute nothing pass on the values of their operands.
    """
    values: dict[str, tuple[tuple[str, int], ...]] = {}
    for instruction in computation:
        inputs = [values.get(name, ()) for name in instruction.operands]
        own = tuple((instruction.name, i) for i in range(len(instruction.shapes)))
        if instruction.opcode == "get-tuple-element":
            index = int(instruction.attribute(r"index=(\d+)") or 0)
            own = inputs[0][index : index + 1] if len(inputs[0]) > index else own
        elif instruction.opcode in _ALIASES:
            own = tuple(value for each in inputs for value in each)
        elif instruction.opcode == "while":
            passed = _passed_through(module.computations[instruction.body])
            own = tuple(
                inputs[0][i] if i in passed and len(inputs[0]) == len(own) else value
                for i, value in enumerate(own)
            )
        values[instruction.name] = own
    return values


def _passed_through(body: Computation) -> set[int]:
    """The indices of what a loop's body returns as it got it."""
    root = body.root
    if root.opcode != "tuple":
        return set()
    results = (body[name] for name in root.operands)
    return {
        i
        for i, result in enumerate(results)
        if result.opcode == "get-tuple-element"
        and body[result.operands[0]].opcode == "parameter"
        and result.attribute(r"index=(\d+)") == str(i)
    }
