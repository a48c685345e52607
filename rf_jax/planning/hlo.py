"""Reads the text of a compiled program (`jax.stages.Compiled.as_text`).

Only what a roofline needs is read: instructions with their shapes, operands and attributes, by
computation. XLA calls such a text an HLO module; each instruction of its entry computation, and of
the loops that this runs, is a kernel or a call of a library, in the order of execution.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "f16": 16, "bf16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64,
    "c64": 64, "c128": 128,
}  # fmt: skip
"""Bits per element; float8 types, which are not listed, have 8."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The type and the sizes of one array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.elements * _BITS.get(self.dtype, 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique within the module's computation.
      opcode: what it does: "fusion", "custom-call", "while" and so on.
      shapes: of its result; several if that is a tuple.
      operands: names of instructions of the same computation.
      text: the line after the opcode, with operands and attributes.
      is_root: whether it is its computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes; None if it is not there."""
        found = re.search(pattern, self.text)
        return found and found[1]

    @property
    def target(self) -> str:
        """The library function that a custom call names."""
        return self.attribute(r'custom_call_target="([^"]*)"') or ""

    @property
    def source(self) -> str:
        """The path of the JAX operation that it came from."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that a fusion, call or conditional runs."""
        branches = self.attribute(r"branch_computations=\{([^}]*)\}")
        if branches is not None:
            return tuple(_NAME.findall(branches))
        keys = r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
        return tuple(re.findall(keys, self.text))

    @property
    def body(self) -> str | None:
        """The computation that a loop repeats."""
        return self.attribute(r"body=%?([\w.\-]+)")

    @property
    def trip_count(self) -> int | None:
        """How often a loop repeats it; None if the compiler does not know."""
        count = self.attribute(r'known_trip_count":\{"n":"(\d+)"')
        return None if count is None else int(count)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order of execution, by name."""

    instructions: dict[str, Instruction]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def __contains__(self, name: str) -> bool:
        return name in self.instructions

    @property
    def root(self) -> Instruction:
        return next(x for x in reversed(self.instructions.values()) if x.is_root)

    def parameters(self) -> list[Instruction]:
        """In the order of the caller's operands."""
        found = [x for x in self if x.opcode == "parameter"]
        return sorted(found, key=lambda x: int(x.text.partition(")")[0]))

    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for operand in dict.fromkeys(instruction.operands):
                if operand in users:
                    users[operand].append(instruction)
        return users


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      entry: the name of the computation that runs.
      computations: by name.
    """

    entry: str
    computations: dict[str, Computation]


def parse_module(text: str) -> Module:
    """Reads the text of a module.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if begin := _COMPUTATION.match(line):
            current = computations[begin[2]] = {}
            entry = begin[2] if begin[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            root, name, shape, opcode, rest = found.groups()
            shapes = tuple(
                Shape(dtype, tuple(map(int, filter(None, dims.split(",")))))
                for dtype, dims in _SHAPE.findall(shape)
            )
            if opcode == "fusion-start":  # since JAX 0.11; the next kernels do not wait for it
                opcode = "fusion"
            operands = () if opcode == "constant" else tuple(_NAME.findall(rest.split(")")[0]))
            current[name] = Instruction(name, opcode, shapes, operands, rest, bool(root))
    if entry is None:
        raise ValueError("no ENTRY computation in the text")
    return Module(entry, {name: Computation(found) for name, found in computations.items()})
