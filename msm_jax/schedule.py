"""How long a compiled step takes, read from its program: a clock that goes through the schedule.

The TensorCore does one thing after another; beside it run the links between chips, the copy engines and the link to the
host. An asynchronous transfer costs only the time for which the TensorCore waits at its end. Nothing is measured here:
METHODS says where every number comes from and how far it can be trusted.
"""

import collections
import dataclasses
import re
from typing import Any

from msm_jax import kernels
from msm_jax.hlo import COLLECTIVES, Op, Program, arrays, nbytes
from msm_jax.perf import Chip

RING_EFFICIENCY = 0.8  # of a link's nominal bandwidth
LATENCY = 1e-6  # seconds a collective takes beside its bytes
HOST_BANDWIDTH = 3.0e10  # bytes/s of a chip's share of the link to its host
DCN_BANDWIDTH = 6.25e9  # bytes/s of a chip's share of the network between slices

METHODS = {
    "step_seconds": ("the sum of the parts below along the compiler's schedule", "as good as its worst part"),
    "matmul_seconds": ("the compiler's estimated cycles at the nominal clock", "good between variants, never measured"),
    "matmul_flops": ("shapes of all matrix products × loop turns", "exact"),
    "vector_seconds": ("estimated cycles of all that is no matrix product", "fair: often 2 to 3 times off for one op"),
    "copy_seconds": ("bytes over HBM bandwidth where there is no estimate; waits for copies", "fair"),
    "kernel_seconds": ("attention kernels: visited blocks × static bundle counts", "a lower bound, ±5%"),
    "exposed_collective_seconds": ("bytes/(2·links·0.8) that computation does not hide; open rings half", "a model"),
    "host_seconds": ("bytes at 30 GB/s a chip, most of it hidden", "a model"),
    "between slices": ("bytes at 6.25 GB/s a chip, both ways at once", "a guess"),
    "collectives": ("kinds, counts and bytes from the program; seconds by the same model", "bytes exact"),
}

# Opcodes that cost nothing by themselves, unless the compiler says so.
_FREE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "replica-id", "after-all",
         "opt-barrier", "custom-call", "iota", "add-dependency")  # fmt: skip


@dataclasses.dataclass
class Cost:
    """Of one pass through a computation. The first five add up to `seconds`."""

    matmul: float = 0.0
    vector: float = 0.0
    copy: float = 0.0
    kernel: float = 0.0
    exposed: float = 0.0
    matmul_flops: float = 0.0
    kernel_flops: float = 0.0
    host: float = 0.0
    host_bytes: float = 0.0
    # (kind, what for) → [count, bytes, seconds]
    collectives: dict[tuple[str, str], list[float]] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.matmul + self.vector + self.copy + self.kernel + self.exposed

    def add(self, other: "Cost", times: float) -> None:
        for field in dataclasses.fields(self):
            if field.name != "collectives":
                value = getattr(self, field.name) + times * getattr(other, field.name)
                setattr(self, field.name, value)
        for key, row in other.collectives.items():
            self.count(key, *(times * value for value in row))

    def count(self, key: tuple[str, str], *row: float) -> None:
        self.collectives[key] = [a + b for a, b in zip(self.collectives.get(key, [0.0] * 3), row, strict=True)]


@dataclasses.dataclass
class Links:
    """What joins the chips: `closed` is the share of the torus's axes that are rings."""

    chip: Chip
    closed: float
    slices: int
    devices: int

    def seconds(self, kind: str, sent: float, group: int) -> float:
        """For `sent` bytes a device, in groups of `group` devices."""
        ring = 0.5 + 0.5 * self.closed
        if kind == "collective-permute":
            return sent / (self.chip.link * ring)
        axes = self.chip.axes if group >= 16 or group == self.devices else min(self.chip.axes, 2 if group >= 8 else 1)
        return sent / (axes * 2 * self.chip.link * ring * RING_EFFICIENCY) + LATENCY


def purpose(op: Op, shown: Op) -> str:
    """What a collective is for, by where in the model it, or the operation it is shown as, stands: gradients are
    summed, parameters gathered."""
    kind, source = op.opcode.removesuffix("-start"), op.source or shown.source
    if "transpose(" in source and "rematted" not in source:
        return "gradient" if kind in ("all-reduce", "reduce-scatter") else "backward"
    return "recomputed forward" if "rematted" in source else "forward" if "jvp(" in source else "other"


End = tuple[float, str]
"""When a transfer is over, and the part of Cost that waiting for it goes to."""


class Clock:
    """Walks through a computation: the time now, when each engine is free again, and which transfers are under way."""

    def __init__(self, reader: "Reader", computation: str, times: float) -> None:
        self.reader, self.computation, self.times = reader, computation, times
        self.cost = Cost()
        self.free: dict[str, float] = collections.defaultdict(float)
        self.ends: dict[str, End] = {}  # of transfers, by the name of what started (or carries) them
        self.waiting: dict[str, tuple[str, Op]] = {}  # SparseCore collectives that still lack their operands

    @property
    def now(self) -> float:
        return self.cost.seconds

    def spend(self, what: str, seconds: float, op: Op) -> None:
        setattr(self.cost, what, getattr(self.cost, what) + seconds)
        self.reader.note(what, op, seconds * self.times, self.times)

    def transfer(self, engine: str, seconds: float, what: str = "exposed") -> End:
        """The end of a transfer that starts now; an engine does one after another."""
        self.free[engine] = max(self.now, self.free[engine]) + seconds
        return self.free[engine], what

    def collective(self, computation: str, op: Op, shown: Op) -> End:
        """Counts a collective that starts now; `shown` is the operation of the schedule that holds it."""
        kind, sent = self.reader.program.wire_bytes(computation, op)
        if kind == "all-reduce" and computation != self.computation and self.reader.program.sliced(computation):
            kind, sent = "reduce-scatter", sent / 2
        seconds = self.reader.links.seconds(kind, sent, self.reader.program.group_size(op))
        self.cost.count((kind, purpose(op, shown)), 1, sent, seconds)
        pairs = op.attribute(r"source_target_pairs=\{(\{[^}]*\})")  # the two ways round a ring are two engines
        return self.transfer(f"links {pairs}" if kind == "collective-permute" else "links", seconds)

    def wait(self, op: Op) -> None:
        """The TensorCore waits until the transfers that op ends are over."""
        for name in op.operands:
            if name in self.ends:
                time, what = self.ends[name]
                self.spend(what, max(0.0, time - self.now), op)


class Reader:
    """Costs of a program's computations, what took longest, and what was not understood."""

    def __init__(self, program: Program, chip: Chip, links: Links) -> None:
        self.program, self.chip, self.links = program, chip, links
        self.warnings: set[str] = set()
        self.longest: dict[tuple[str, str, str], list[float]] = {}

    def note(self, what: str, op: Op, seconds: float, times: float) -> None:
        row = self.longest.setdefault((what, re.sub(r"[.\d]+$", "", op.name), op.source[-80:]), [0.0, 0.0])
        row[0] += seconds
        row[1] += times

    def cost(self, computation: str, times: float = 1.0) -> Cost:
        """Of one pass; `times` is how often it is made in a step, for `longest`."""
        clock = Clock(self, computation, times)
        for op in self.program.computations[computation].values():
            self._one(clock, op)
        return clock.cost

    def _one(self, clock: Clock, op: Op) -> None:
        opcode = op.opcode
        if opcode in ("while", "conditional", "call"):
            self._control(clock, op)
        elif opcode in ("send", "recv"):
            self._between_slices(clock, op)
        elif opcode == "copy-start":
            self._copy(clock, op, _first_bytes(op.type))
        elif opcode.endswith("-start") and opcode.removesuffix("-start") in COLLECTIVES:
            clock.ends[op.name] = clock.collective(clock.computation, op, op)
        elif opcode == "async-start":
            self._async_start(clock, op)
        elif opcode == "async-update":
            self._async_update(clock, op)
        elif opcode.endswith("-done"):
            clock.wait(op)
        elif opcode in COLLECTIVES:
            self._exposed(clock, clock.computation, op, op)
        elif opcode == "custom-call" and "tpu_custom_call" in op.attributes:
            self._kernel(clock, op)
        elif opcode == "get-tuple-element":
            if op.operands and op.operands[0] in clock.ends:  # a part of a transfer that is under way
                clock.ends[op.name] = clock.ends[op.operands[0]]
        elif opcode in _FREE:
            clock.spend("vector", (op.cycles or 0) / self.chip.clock, op)
        else:
            self._computation(clock, op)

    def _control(self, clock: Clock, op: Op) -> None:
        if op.opcode == "while":
            turns = self.program.trip_count(clock.computation, op)
            if turns is None:
                self.warnings.add(f"loop {op.name}: number of turns not understood, counted once")
            body = op.attribute(r"body=%([^\s,]+)")
            clock.cost.add(self.cost(body, clock.times * (turns or 1)), turns or 1)
        elif op.opcode == "call":
            clock.cost.add(self.cost(op.calls, clock.times), 1)
        else:
            listed = op.attribute(r"branch_computations=\{([^}]*)\}") or op.attributes
            names = re.findall(r"(?:_computation=)?%([^\s,}]+)", listed)
            branches = [self.cost(name, clock.times) for name in names if name in self.program.computations]
            if branches:
                clock.cost.add(max(branches, key=lambda cost: cost.seconds), 1)

    def _between_slices(self, clock: Clock, op: Op) -> None:
        sent = nbytes(op.type) if op.opcode == "recv" else self.program.operand_bytes(clock.computation, op)
        seconds = sent / DCN_BANDWIDTH
        self.warnings.add(f"between slices: {DCN_BANDWIDTH / 1e9} GB/s a chip is a guess")
        if op.opcode == "send":
            clock.cost.count(("between slices", purpose(op, op)), 1, sent, seconds)
        clock.ends[op.name] = clock.transfer(f"slices {op.opcode}", seconds)

    def _copy(self, clock: Clock, op: Op, size: float) -> None:
        if "S(5)" in op.type:  # the host's memory
            clock.cost.host += size / HOST_BANDWIDTH
            clock.cost.host_bytes += size
            clock.ends[op.name] = clock.transfer("host", size / HOST_BANDWIDTH, "copy")
        else:
            clock.ends[op.name] = clock.transfer("copies", size / self.chip.bandwidth, "copy")

    def _async_start(self, clock: Clock, op: Op) -> None:
        inside = self.program.collectives_within(op.calls)
        if inside and not op.operands:  # a SparseCore begins when async-update brings the operands
            clock.waiting[op.name] = inside[0]
        elif inside:
            clock.ends[op.name] = max(clock.collective(*found, op) for found in inside)
        elif "sparsecore" in op.attributes:
            clock.ends[op.name] = clock.transfer("sparsecore", nbytes(op.type) / self.chip.bandwidth, "copy")
        elif op.calls in self.program.computations:
            root = self.program.root(op.calls)
            moved = root.type
            if root.opcode == "dynamic-update-slice":
                moved = self.program.computations[op.calls][root.operands[1]].type
            self._copy(clock, op, nbytes(moved))

    def _async_update(self, clock: Clock, op: Op) -> None:
        started = op.operands[0]
        if started in clock.waiting:
            computation, collective = clock.waiting.pop(started)
            clock.ends[op.name] = clock.collective(computation, collective, op)
        elif started in clock.ends:
            clock.ends[op.name] = clock.ends[started]

    def _exposed(self, clock: Clock, computation: str, collective: Op, shown: Op) -> None:
        """A collective that the TensorCore waits for from beginning to end."""
        end, _ = clock.collective(computation, collective, shown)
        clock.spend("exposed", end - clock.now, shown)

    def _kernel(self, clock: Clock, op: Op) -> None:
        found = kernels.cost(self.program, clock.computation, op, self.chip)
        if found is None:
            size = nbytes(op.type) + self.program.operand_bytes(clock.computation, op)
            found = kernels.KernelCost(size / self.chip.bandwidth, 0.0, f"kernel {op.name}: no model, memory time only")
        if found.warning:
            self.warnings.add(found.warning)
        clock.cost.kernel_flops += found.flops
        clock.spend("kernel", found.seconds, op)

    def _computation(self, clock: Clock, op: Op) -> None:
        """A fusion, or an operation that stands alone."""
        program = self.program
        flops = program.matmul_flops(op.calls) if op.calls in program.computations else 0.0
        inside = program.collectives_within(op.calls) if op.opcode == "fusion" else []
        seconds = None if op.cycles is None else op.cycles / self.chip.clock
        if inside and op.name.startswith("async-collective-start"):
            clock.ends[op.name] = max(clock.collective(*found, op) for found in inside)
            return
        if inside and op.name.startswith("async-collective-done"):
            clock.wait(op)
            return
        if inside and seconds is not None and (flops or "async_collective_fusion" in op.name):
            under_way = [clock.ends[name] for name in op.operands if name in clock.ends]
            if under_way:  # carries steps of a collective that began elsewhere
                clock.ends[op.name] = max(under_way)
        elif inside:
            for computation, collective in inside:
                self._exposed(clock, computation, collective, op)
            return
        clock.cost.matmul_flops += flops
        if seconds is not None:
            clock.spend("matmul" if flops else "vector", seconds, op)
        else:
            clock.spend("copy", self._memory_seconds(clock.computation, op), op)

    def _memory_seconds(self, computation: str, op: Op) -> float:
        """Of an operation without an estimate; small ones are free."""
        out = nbytes(op.type)
        if out < 1e5 or op.opcode == "dynamic-update-slice":
            return 0.0
        if op.opcode in ("dynamic-slice", "slice"):
            return 2 * out / self.chip.bandwidth
        return (out + self.program.operand_bytes(computation, op)) / self.chip.bandwidth


def _first_bytes(type_: str) -> float:
    """Of the first array in a type: what a copy moves."""
    found = arrays(type_)
    return nbytes(f"{found[0][0]}[{','.join(map(str, found[0][1]))}]") if found else 0.0


def report(text: str, chip: Chip, wrap: tuple[bool, ...] = (True,), slices: int = 1) -> dict[str, Any]:
    """Reads a compiled step.

    Args:
      text: of libtpu's `*.after_codegen.txt`.
      chip: one device.
      wrap: which axes of the slice are rings.
      slices: how many there are.

    Returns:
      Seconds and FLOPs of one step on one device, JSON-able; METHODS explains the keys.
    """
    program = Program.parse(text)
    axes = wrap[: chip.axes]
    links = Links(chip, sum(axes) / len(axes), slices, program.partitions)
    reader = Reader(program, chip, links)
    cost = reader.cost(program.entry)
    rows = sorted(cost.collectives.items(), key=lambda item: -item[1][1])
    longest = sorted(reader.longest.items(), key=lambda item: -item[1][0])[:40]
    return {
        "step_seconds": cost.seconds,
        "matmul_seconds": cost.matmul,
        "vector_seconds": cost.vector,
        "copy_seconds": cost.copy,
        "kernel_seconds": cost.kernel,
        "exposed_collective_seconds": cost.exposed,
        "host_seconds": cost.host,
        "host_bytes": cost.host_bytes,
        "matmul_flops": cost.matmul_flops,
        "kernel_flops": cost.kernel_flops,
        "collectives": [
            {"kind": kind, "for": what, "count": round(n), "bytes": sent, "seconds": seconds}
            for (kind, what), (n, sent, seconds) in rows
        ],
        "longest": [
            {"part": part, "op": op, "source": source, "seconds": seconds, "count": round(n)}
            for (part, op, source), (seconds, n) in longest
        ],
        "warnings": sorted(reader.warnings),
    }
