"""TPU slices by name, `v5p:4x4x4` or `v5e:16x16*2` (two of them), and their devices without a TPU.

Parsing needs nothing. Devices come from libtpu, which describes hardware it does not see; a program compiled for them
is the one that hardware would run.
"""

import dataclasses
import importlib.util
import itertools
import math
import os
import re
from collections.abc import MutableMapping
from typing import Any

import jax

from msm_jax.cli import UserError
from msm_jax.perf import CHIPS, Chip

# libtpu must neither ask a cloud machine's metadata server nor claim the machine's own TPU, and two may run at once.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what JAX finds there is not compiled again, and so not written out
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # this and the next two silence warnings; they need not match the topology
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a generation's slices look like."""

    libtpu: str  # its name there
    sizes: tuple[str, ...]  # of slices smaller than a cube of 4x4x4, or (2-d) all there are
    max_chips: int  # of larger ones, whose sides are multiples of 4
    chip_config: str = "default"
    devices_per_chip: int = 1


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
GENERATIONS = {
    "v4": Generation("v4", _SMALL, 2048, "megacore"),
    "v5e": Generation("v5e", _FLAT, 256),
    "v5p": Generation("v5", _SMALL, 8960, "megacore"),
    "v6e": Generation("v6e", _FLAT, 256),
    "tpu7x": Generation("tpu7x", ("1x1x1", *_SMALL), 9216, devices_per_chip=2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several slices of one shape."""

    generation: str
    shape: tuple[int, ...]  # chips along each axis of a slice
    slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.generation}:{_join(self.shape)}" + (f"*{self.slices}" if self.slices > 1 else "")

    @property
    def chip(self) -> Chip:
        """One *device* of it: half a chip on tpu7x."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices_per_chip(self) -> int:
        return GENERATIONS[self.generation].devices_per_chip

    @property
    def device_count(self) -> int:
        return self.chips * self.devices_per_chip

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Which axes close to rings. Without it the compiler has no torus, and replaces all-gathers by all-reduces."""
        if len(self.shape) == 2:
            x, y = self.shape
            return x >= 16, y >= 16, False
        closed = min(self.shape) >= 4
        return closed, closed, closed

    def kwargs(self) -> dict[str, Any]:
        """Of jax.experimental.topologies.get_topology_desc; MaxText passes the same."""
        generation = GENERATIONS[self.generation]
        return {
            "topology_name": f"{generation.libtpu}:{_join(self.shape)}",
            "chip_config_name": generation.chip_config,
            "chips_per_host_bounds": (1, 1, 1) if math.prod(self.shape) == 1 else (2, 2, 1),
            "num_slices": self.slices,
            "wrap": self.wrap,
        }


def _join(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def parse(name: str) -> Topology:
    """Raises UserError naming what does not exist: the form, the generation or the shape."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)(?:\*(\d+))?", name)
    if not match:
        raise UserError(f"topology {name!r}: must look like v5p:4x4x4, or v5p:4x4x4*2 for two slices")
    if match[1] not in GENERATIONS:
        raise UserError(f"topology {name!r}: no generation {match[1]!r}; there are {', '.join(GENERATIONS)}")
    topology = Topology(match[1], tuple(map(int, match[2].split("x"))), int(match[3] or 1))
    if topology.slices < 1 or not _exists(topology):
        some = ", ".join(t.name for t in itertools.islice(sizes(match[1]), 9))
        raise UserError(f"topology {name!r}: no such slice; there are {some}{', …' if '4x4x4' in some else ''}")
    return topology


def _exists(topology: Topology) -> bool:
    generation, shape = GENERATIONS[topology.generation], topology.shape
    if _join(shape) in generation.sizes:
        return True
    cubes = len(shape) == 3 and not any(side % 4 or side == 0 for side in shape) and list(shape) == sorted(shape)
    return cubes and "1x1" not in generation.sizes and math.prod(shape) <= generation.max_chips


def sizes(generation: str) -> "itertools.chain[Topology]":
    """Every slice of a generation, the smallest first; of equally large ones, the one nearest to a cube."""
    known = GENERATIONS[generation]
    small = [Topology(generation, tuple(map(int, size.split("x")))) for size in known.sizes]
    if "1x1" in known.sizes:
        return itertools.chain(small)
    sides = range(4, 33, 4)
    cubes = [s for s in itertools.combinations_with_replacement(sides, 3) if math.prod(s) <= known.max_chips]
    best = {math.prod(shape): shape for shape in sorted(cubes, key=lambda s: (math.prod(s), s))}
    return itertools.chain(small, (Topology(generation, shape) for shape in best.values()))


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what libtpu needs; before JAX starts a backend."""
    environment.update(ENVIRONMENT)
    environment.pop("XLA_FLAGS", None)  # simulated CPU devices and the like are not for this compiler


def require_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed; pip install 'msm_jax[plan]' (no TPU is needed)")


def devices(topology: Topology) -> list[jax.Device]:
    """The devices of a topology; they compile, they do not run.

    Raises:
      UserError: no libtpu, one held by another process, or one that does not know the topology.
    """
    from jax.experimental import topologies

    require_libtpu()
    try:
        found = topologies.get_topology_desc(platform="tpu", **topology.kwargs()).devices
    except Exception as error:  # whatever libtpu says is one line for the user
        raise UserError(_explained(topology, " ".join(str(error).split()))) from error
    if len(found) != topology.device_count:
        raise UserError(
            f"topology {topology.name}: libtpu makes {len(found)} devices of it, not {topology.device_count}"
        )
    return list(found)


def _explained(topology: Topology, said: str) -> str:
    if re.search("lockfile|already in use|in use by", said):
        return (
            f"libtpu is held by another process; stop it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 for both ({said[:120]})"
        )
    return f"topology {topology.name}: libtpu refuses it ({said[:200]})"
