"""Reads the program that the TPU compiler writes out (`*.after_codegen.txt`): its operations, how often loops run, the
arithmetic of matrix products, and the bytes of collectives. What time that takes is in schedule.py.

The order of the text is the order of execution (`is_scheduled=true`). Nothing here needs libtpu.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from msm_jax.cli import UserError

_BYTES: dict[str, float] = {"pred": 1, "f64": 8, "f32": 4, "bf16": 2, "f16": 2, "f8e4m3fn": 1, "f8e5m2": 1}
_BYTES |= {f"{sign}{bits}": bits / 8 for sign in "su" for bits in (4, 8, 16, 32, 64)}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([0-9,]*)\]")
_HEADER = re.compile(r"(ENTRY )?%([^\s(]+) \(.*\{\s*$")
_OPERATION = re.compile(r"\s*(ROOT )?%([^\s=]+) = (.*)$", re.DOTALL)
_CALLS = re.compile(r"(?:calls|to_apply)=%([^\s,}]+)")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Op:
    """One instruction. `type` and `attributes` are text."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses: a constant's value
    attributes: str
    root: bool

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes; "" where it is not there."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""

    @property
    def calls(self) -> str:
        """The computation that it calls, "" where it calls none."""
        return self.attribute(_CALLS.pattern)

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate. INT64_MAX, which it writes on some operations, means that it has none."""
        found = int(self.attribute(r'"estimated_cycles":"(\d+)"') or 2**63)
        return found if found < 1e12 else None

    @property
    def source(self) -> str:
        """Where in the model it comes from: `jit(step)/transpose(jvp())/while/…`."""
        return self.attribute(r'op_name="([^"]*)"')


def arrays(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, dimensions) of every array in a type, tuples flattened."""
    return [(dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in _ARRAY.findall(type_)]


def nbytes(type_: str) -> float:
    return sum(_BYTES[dtype] * math.prod(dims) for dtype, dims in arrays(type_))


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def _operation(text: str) -> Op | None:
    """An instruction of its (joined) lines; None of what is none."""
    match = _OPERATION.match(text)
    if not match:
        return None
    rest = match[3]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    called = re.match(r"\s*([\w-]+)\(", rest[end:])
    if not called:
        return None
    start = end + called.end() - 1
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    operands = tuple(re.findall(r"%([^\s,()]+)", inside))
    return Op(match[2], rest[:end], called[1], operands, inside, rest[stop + 1 :], bool(match[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled module: computations by name, each in order of execution."""

    computations: dict[str, dict[str, Op]]
    entry: str
    partitions: int  # devices

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Raises UserError where the text is no scheduled module."""
        computations: dict[str, dict[str, Op]] = {}
        entry, inside, lines = "", "", list[str]()

        def flush() -> None:
            op = _operation("\n".join(lines))
            if op:
                computations[inside][op.name] = op
            lines.clear()

        for line in text.split("\n"):
            if not inside:
                if header := _HEADER.match(line):
                    inside = header[2]
                    computations[inside] = {}
                    entry = inside if header[1] else entry
            elif line == "}" or line.startswith("}, exec"):
                flush()
                inside = ""
            elif line.startswith("  "):
                flush()
                lines.append(line)
            else:
                lines.append(line)  # attributes that go on: a kernel's metadata has lines of its own
        if not entry:
            raise UserError("not the text of a compiled program: it has no ENTRY computation")
        partitions = re.search(r"num_partitions=(\d+)", text)
        return cls(computations, entry, int(partitions[1]) if partitions else 1)

    def root(self, computation: str) -> Op:
        return next(op for op in reversed(self.computations[computation].values()) if op.root)

    def operand_bytes(self, computation: str, op: Op) -> float:
        ops = self.computations[computation]
        return sum(nbytes(ops[name].type) for name in op.operands if name in ops)

    # ------------------------------------------------------------------------------------------------ loops

    def trip_count(self, computation: str, loop: Op) -> int | None:
        """How often the body of a `while` runs; None where its condition is none that is understood."""
        if known := loop.attribute(r"known_trip_count[^0-9]*(\d+)"):
            return int(known)
        condition, body = loop.attribute(r"condition=%([^\s,]+)"), loop.attribute(r"body=%([^\s,]+)")
        found = self._comparison(condition)
        if found is None:
            return None
        direction, (index, offset), limit = found
        if limit[0] is None:
            last = limit[1]
        else:  # a value that the loop carries unchanged
            initial_limit = self._initial(computation, loop, limit[0])
            if initial_limit is None:
                return None
            last = initial_limit + limit[1]
        first, step = self._initial(computation, loop, index), self._step(body, index)
        if first is None or not step:
            return None
        span = abs(last - (first + offset))
        return max(1, -(-span // abs(step)) if direction in ("LT", "GT", "NE") else span // abs(step) + 1)

    def _comparison(self, condition: str) -> tuple[str, tuple[int, int], tuple[int | None, int]] | None:
        """(direction, (element, offset) that counts, (element or None, offset) it is compared with)."""
        compare, where, known = self.root(condition), condition, dict[str, Affine]()
        if compare.opcode == "fusion":
            known = self._arguments(condition, compare, {})
            where = compare.calls
            compare = self.root(where)
        if compare.opcode != "compare":
            return None
        sides = [self._affine(where, name, known) for name in compare.operands]
        if len(sides) != 2 or None in sides:
            return None
        left, right = sides
        if left is None or right is None:
            return None
        direction = compare.attribute(r"direction=(\w+)")
        if left[0] is None:
            left, right = right, left
        return None if left[0] is None else (direction, (left[0], left[1]), right)

    def _arguments(self, computation: str, call: Op, known: dict[str, "Affine"]) -> dict[str, "Affine"]:
        """What is known of the parameters of the computation that `call` calls."""
        result = {}
        for op in self.computations[call.calls].values():
            if op.opcode == "parameter":
                value = self._affine(computation, call.operands[int(op.literal)], known)
                if value is not None:
                    result[op.name] = value
        return result

    def _affine(self, computation: str, name: str, known: dict[str, "Affine"], depth: int = 0) -> "Affine | None":
        """A scalar as (element of the loop's tuple or None, number to add); None of anything else."""
        op = self.computations[computation].get(name)
        if name in known or op is None or depth > 12:
            return known.get(name)
        if op.opcode == "constant":
            return (None, int(op.literal)) if re.fullmatch(r"-?\d+", op.literal) else None
        if op.opcode == "get-tuple-element":
            parent = self.computations[computation].get(op.operands[0])
            return (int(op.attribute(r"index=(\d+)")), 0) if parent and parent.opcode == "parameter" else None
        if op.opcode in ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done"):
            return self._affine(computation, op.operands[0], known, depth + 1)
        if op.opcode == "fusion":
            inner = self._arguments(computation, op, known)
            return self._affine(op.calls, self.root(op.calls).name, inner, depth + 1)
        if op.opcode in ("add", "subtract"):
            a, b = (self._affine(computation, operand, known, depth + 1) for operand in op.operands)
            sign = 1 if op.opcode == "add" else -1
            if a and b and (a[0] is None or b[0] is None) and (sign == 1 or b[0] is None):
                return (a[0] if a[0] is not None else b[0]), a[1] + sign * b[1]
        return None

    def _initial(self, computation: str, loop: Op, element: int) -> int | None:
        """The value of an element of the loop's tuple before its first turn."""
        made = self.computations[computation].get(loop.operands[0])
        if made is None or made.opcode != "tuple":
            return None
        value = self._affine(computation, made.operands[element], {})
        return value[1] if value and value[0] is None else None

    def _step(self, body: str, element: int) -> int | None:
        """What a turn adds to an element."""
        made = self.root(body)
        value = self._affine(body, made.operands[element], {}) if made.opcode == "tuple" else None
        return value[1] if value and value[0] == element else None

    # ----------------------------------------------------------------------------------------- matrix products

    @functools.cache  # noqa: B019  # a program lives as long as the report on it
    def matmul_flops(self, computation: str) -> float:
        """Of all matrix products in a computation and in what it calls, each counted once."""
        total = 0.0
        for op in self.computations[computation].values():
            if op.opcode in ("convolution", "dot"):
                total += self._product_flops(computation, op)
            if op.calls in self.computations:
                total += self.matmul_flops(op.calls)
        return total

    def _product_flops(self, computation: str, op: Op) -> float:
        out = math.prod(arrays(op.type)[0][1])
        ops = self.computations[computation]
        left, right = (arrays(ops[name].type)[0][1] for name in op.operands[:2])
        if op.opcode == "dot":
            contracted = [int(d) for d in op.attribute(r"lhs_contracting_dims=\{([0-9,]*)\}").split(",") if d]
            return 2.0 * out * math.prod(left[d] for d in contracted)
        return 2.0 * out * _taps(op, right)

    # --------------------------------------------------------------------------------------------- collectives

    def collectives_within(self, computation: str) -> list[tuple[str, Op]]:
        """(computation, collective) of all that are in a computation and in what it calls, to any depth."""
        return list(self._collectives(computation, set()))

    def _collectives(self, computation: str, seen: set[str]) -> Iterator[tuple[str, Op]]:
        if computation in seen or computation not in self.computations:
            return
        seen.add(computation)
        for op in self.computations[computation].values():
            if op.opcode.removesuffix("-start") in COLLECTIVES:
                yield computation, op
            else:
                called = op.attribute(r"called_computations=\{%([^\s,}]+)") or op.calls
                yield from self._collectives(called, seen)

    def sliced(self, computation: str) -> bool:
        """Does it keep only a part of what it makes? An all-reduce in such a fusion is a reduce-scatter."""
        return any(op.opcode == "dynamic-slice" for op in self.computations[computation].values())

    def group_size(self, op: Op) -> int:
        """How many devices a collective joins."""
        if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", op.attributes):
            return int(found[2])
        if found := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", op.attributes):
            sizes = {axis: int(size) for axis, size in re.findall(r"'([^']*)'=(\d+)", found[1])}
            return math.prod(sizes.get(axis, 1) for axis in re.findall(r"'([^']*)'", found[2]))
        if found := re.search(r"replica_groups=\{\{([0-9,]*)\}", op.attributes):
            return found[1].count(",") + 1
        return int(op.attribute(r"group_size = (\d+)") or self.partitions)

    def wire_bytes(self, computation: str, op: Op) -> tuple[str, float]:
        """(kind, bytes that each device sends) of a collective, done on rings."""
        kind, n = op.opcode.removesuffix("-start"), self.group_size(op)
        inputs, output = self.operand_bytes(computation, op), nbytes(op.type)
        if kind == "all-gather":
            whole = max(output - inputs if op.opcode.endswith("-start") else output, inputs)
            return kind, whole * (n - 1) / n
        share = {"all-reduce": 2.0, "reduce-scatter": 1.0, "all-to-all": 0.25, "ragged-all-to-all": 0.25}
        return kind, inputs * share[kind] * (n - 1) / n if kind in share else inputs


Affine = tuple[int | None, int]
"""A scalar that a loop knows: an element of its tuple (None: no element) plus a number."""


def _taps(op: Op, kernel: tuple[int, ...]) -> int:
    """The contracted size of a matrix product, which TPU programs write as a convolution.

    Input features are contracted. A spatial dimension is, too, unless it is a batch dimension in disguise: dilated or
    strided so that one tap meets an output, or padded as wide as the kernel.
    """
    labels = op.attribute(r"dim_labels=[0-9a-z?]+_([0-9a-z?]+)->")
    window = dict(part.split("=", 1) for part in op.attribute(r"window=\{([^}]*)\}").split())
    size = 1
    for position, label in enumerate(labels):
        if label == "i":
            size *= kernel[position]
        elif label.isdigit() and kernel[position] > 1:
            low, high = (int(p) for p in _of(window, "pad", int(label), "0_0").split("_"))
            spread = _of(window, "lhs_dilate", int(label), "1") != "1" or _of(window, "stride", int(label), "1") != "1"
            if not spread and max(low, high) < kernel[position] - 1:
                size *= kernel[position]
    return size


def _of(window: dict[str, str], key: str, dimension: int, default: str) -> str:
    return window[key].split("x")[dimension] if key in window else default
