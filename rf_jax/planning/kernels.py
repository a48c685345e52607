"""Operations and bytes of single kernels, from their instructions in a compiled program."""

import math
import re
from collections.abc import Iterator

from rf_jax.planning.hlo import Computation, Instruction, Module

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
"""Opcodes that move data between devices; each may also end in -start."""

_BACKWARD_PRODUCTS = 2.5
"""Products of attention's gradient, over those of attention: 5 to 2 (FlashAttention-2)."""


def flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Operations of the matrix products and convolutions in a kernel; a multiply-add is two."""
    if instruction.opcode == "dot":
        return _dot_flops(computation, instruction)
    if instruction.opcode == "fusion":
        fused = (module.computations[name] for name in instruction.called)
        return sum(flops(module, inner, x) for inner in fused for x in inner)
    if instruction.opcode == "custom-call":
        return _call_flops(computation, instruction)
    return 0.0


def precision(module: Module, computation: Computation, instruction: Instruction) -> str:
    """The kind of product in a kernel: "half", "tf32" or "single"; "half" if there is none."""
    for where, product in _products(module, computation, instruction):
        types = (where[x].shapes[0].dtype for x in product.operands if x in where)
        # The first operand of a kernel of our own may be the lengths, which are integers.
        if next((x for x in types if "f" in x), "f32") in ("f32", "f64"):
            strict = "highest" in product.text.lower() or "ALG_DOT_F32_F32_F32" in product.text
            return "single" if strict or is_flash(product) else "tf32"
    return "half"


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that a kernel reads and writes in the memory of its device.

    A fusion that only slices an operand reads the slice, and one that updates a part of its result
    in place writes that part.
    """
    if instruction.opcode == "fusion" and instruction.called:
        return _fusion_traffic(module.computations[instruction.called[0]])
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * instruction.bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2 * computation[instruction.operands[1]].bytes
    read = (computation[x] for x in dict.fromkeys(instruction.operands) if x in computation)
    return instruction.bytes + sum(x.bytes for x in read)


def collective(instruction: Instruction) -> str | None:
    """The kind of a collective, one of `COLLECTIVES`; None for other instructions."""
    name = instruction.opcode.removesuffix("-start")
    return name if name in COLLECTIVES else None


def sent_bytes(computation: Computation, instruction: Instruction, devices: int) -> float:
    """Bytes that each device sends in a collective, by the algorithms that use a ring.

    `devices` is the number of all devices; a collective may be one of smaller groups.
    """
    kind = collective(instruction)
    operands = sum(computation[x].bytes for x in instruction.operands if x in computation)
    group = _group_size(instruction) or devices
    others = (group - 1) / group
    if kind == "all-reduce":
        return 2 * others * operands
    if kind == "all-gather":
        return float((group - 1) * operands)
    if kind == "collective-permute":
        return float(operands)
    return others * operands  # reduce-scatter, all-to-all


def _group_size(instruction: Instruction) -> int | None:
    """Devices of each group of a collective; None if all are one group."""
    size = instruction.attribute(r"replica_groups=\[\d+,(\d+)\]")
    if size is not None:
        return int(size)
    first = instruction.attribute(r"replica_groups=\{\{([\d,]+)\}")
    return None if first is None else len(first.split(","))


def _products(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    if instruction.opcode == "dot" or _call_flops(computation, instruction):
        yield computation, instruction
    elif instruction.opcode == "fusion":
        for name in instruction.called:
            inner = module.computations[name]
            yield from ((inner, x) for x in inner if x.opcode == "dot")


def _dot_flops(computation: Computation, instruction: Instruction) -> float:
    contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return _contraction(computation, instruction, re.findall(r"\d+", contracted))


def _contraction(computation, instruction, axes) -> float:
    left = computation[instruction.operands[0]].shapes[0].dims
    return 2.0 * instruction.shapes[0].elements * math.prod(left[int(axis)] for axis in axes)


def _call_flops(computation: Computation, instruction: Instruction) -> float:
    """Operations of a call of cuBLAS, of cuDNN, or of a kernel of our own; 0 for other calls."""
    if instruction.opcode != "custom-call":
        return 0.0
    target = instruction.target
    if target.startswith("__cublas$"):
        contracted = instruction.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]') or ""
        return _contraction(computation, instruction, re.findall(r"\d+", contracted))
    if target.startswith("__cudnn$conv"):
        return _convolution_flops(computation, instruction)
    if target.startswith("__cudnn$fmha"):
        return _cudnn_attention_flops(computation, instruction)
    if is_swiglu(instruction):
        return _swiglu_flops(computation, instruction)
    if is_flash(instruction):
        return _flash_flops(computation, instruction)
    return 0.0


def is_flash(instruction: Instruction) -> bool:
    """Whether this is a kernel of `rf_jax.attention.flash`, whose products keep the full type."""
    own = "mosaic" in instruction.target or "triton" in instruction.target
    return own and not is_swiglu(instruction)


def is_swiglu(instruction: Instruction) -> bool:
    """Whether this is a kernel of `rf_jax.models.swiglu_mosaic`."""
    return instruction.opcode == "custom-call" and "swiglu_" in (instruction.source or "")


def _convolution_flops(computation: Computation, instruction: Instruction) -> float:
    """Twice the pixels of the layer's result times the elements of one of its filters.

    The labels are those of the layer, also in both halves of its gradient: an operand and the
    result change places there.
    """
    first, second = (computation[x].shapes[0] for x in instruction.operands[:2])
    result = instruction.shapes[0]
    if "BackwardInput" in instruction.target:
        out, kernel = first, second
    elif "BackwardFilter" in instruction.target:
        out, kernel = second, result
    else:
        out, kernel = result, second
    labels = instruction.attribute(r"dim_labels=\w+_(\w+)->") or "o"
    return 2.0 * out.elements * kernel.elements / kernel.dims[labels.index("o")]


def _cudnn_attention_flops(computation: Computation, instruction: Instruction) -> float:
    scores = instruction.attribute(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]')
    elements = math.prod(map(int, re.findall(r"\d+", scores or "")))
    width = computation[instruction.operands[0]].shapes[0].dims[-1]
    factor = _BACKWARD_PRODUCTS if "Backward" in instruction.target else 1
    return factor * 4.0 * elements * width


def _flash_flops(computation: Computation, instruction: Instruction) -> float:
    """Products of `rf_jax.attention.flash`, whose operands begin with query, key and value.

    Its gradient is two kernels, which compute the scores again: d_query takes three products, and
    d_key with d_value four.
    """
    arrays = [computation[x].shapes[0].dims for x in instruction.operands if x in computation]
    arrays = [dims for dims in arrays if len(dims) == 4]
    if len(arrays) < 3:
        return 0.0
    query, key = arrays[0], arrays[1]
    batch, length, heads, width = query
    wide = [shape for shape in instruction.shapes if len(shape.dims) == 4]
    products = 2 if len(arrays) == 3 else 2 + len(wide)
    return 2.0 * products * batch * length * key[1] * heads * width


def _swiglu_flops(computation: Computation, instruction: Instruction) -> float:
    """Products of x [T, D] with w1 and w3 [D, F], or of d_out [T, D] with w2 [F, D] alone."""
    arrays = [computation[x].shapes[0] for x in instruction.operands if x in computation]
    if len(arrays) < 3:
        return 0.0
    products = 2 if len(arrays) == 3 else 1
    return 2.0 * products * arrays[0].dims[0] * arrays[1].elements


def _fusion_traffic(fused: Computation) -> int:
    users = fused.users()
    read = sum(_read_bytes(parameter, users) for parameter in fused.parameters())
    return read + _written_bytes(fused, fused.root)


def _read_bytes(parameter: Instruction, users: dict[str, list[Instruction]]) -> int:
    """Bytes of a fusion's operand that it reads."""
    total, pending = 0, [parameter]
    while pending:
        source = pending.pop()
        for user in users[source.name]:
            if user.opcode == "bitcast":
                pending.append(user)
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                total += user.bytes
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == source.name:
                continue  # the rest stays where it is
            else:
                return parameter.bytes
    return min(total, parameter.bytes)


def _written_bytes(fused: Computation, result: Instruction) -> int:
    if result.opcode == "tuple":
        return sum(_written_bytes(fused, fused[x]) for x in result.operands)
    if result.opcode == "bitcast" and fused[result.operands[0]].opcode != "parameter":
        return _written_bytes(fused, fused[result.operands[0]])
    if result.opcode == "dynamic-update-slice":
        return fused[result.operands[1]].bytes
    return result.bytes
