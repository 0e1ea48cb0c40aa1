"""Many plans of one configuration: the fastest that fits a slice, or the smallest slice that it fits.

The rows of an update stay what the configuration says, unless --rows names others, so what is trained does not change:
a candidate says how they are spread over mesh and microbatches, and what the backward pass recomputes.
"""

import dataclasses
import math
import time
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from msm_jax import aot, cli, estimate, topology
from msm_jax.cli import UserError
from msm_jax.estimate import Json
from msm_jax.model.config import ModelConfig
from msm_jax.model.remat import REMAT
from msm_jax.topology import Topology

if TYPE_CHECKING:
    from msm_jax.plan import Planner

TENSOR = (1, 2, 4, 8)
ACCUMULATE = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True, order=True)
class Candidate:
    """One way to train the same rows."""

    rows: int  # of an update
    fsdp: int  # fsdp·ring of the mesh
    tensor: int
    accumulate: int
    remat: str
    ring: int = 1  # of `fsdp`, how many along the mesh's axis of that name

    @property
    def rows_each(self) -> int:
        """Of a microbatch, on one member of fsdp (and replica)."""
        return self.rows // self.accumulate // self.fsdp

    def overrides(self) -> tuple[str, ...]:
        return (
            f"--config.data.batch_rows={self.rows}",
            f"--config.optim.accumulate={self.accumulate}",
            f"--config.mesh.fsdp={self.fsdp // self.ring}",
            f"--config.mesh.ring={self.ring}",
            f"--config.mesh.tensor={self.tensor}",
            f"--config.model.remat={self.remat}",
        )


def candidates(config: ConfigDict, where: Topology, rows: tuple[int, ...] = ()) -> list[Candidate]:
    """All that divide: those that keep less in memory first, so that pruning spares what cannot fit."""
    model, _ = aot.shapes(config)
    replica = max(1, config.mesh.replica)
    inside = where.device_count // replica
    found = []
    for count in rows or (config.data.batch_rows,):
        for tensor in TENSOR:
            fsdp = inside // tensor
            if fsdp * tensor * replica != where.device_count or not _divides(model, fsdp, tensor):
                continue
            for accumulate in ACCUMULATE:
                if count % (accumulate * fsdp * replica) == 0:
                    found += [Candidate(count, fsdp, tensor, accumulate, remat, rings(where, fsdp)) for remat in REMAT]
    return sorted(found, key=lambda c: (c.rows, c.tensor, -c.accumulate, REMAT.index(c.remat)))


def rings(where: Topology, fsdp: int) -> int:
    """What config.mesh.ring is best: both rings of a torus that has two and no SparseCores to do without them."""
    return 16 if where.name.startswith("v5e:16x16") and fsdp == 256 else 1


def _divides(model: ModelConfig, fsdp: int, tensor: int) -> bool:
    dims = model.dims
    return dims["D"] % fsdp == 0 and not any(dims[letter] % tensor for letter in "HKFV")


def needs_as_much(candidate: Candidate, misfit: Candidate) -> bool:
    """Does it keep at least what `misfit`, which does not fit, keeps?"""
    same = (candidate.rows, candidate.fsdp, candidate.tensor) == (misfit.rows, misfit.fsdp, misfit.tensor)
    more = REMAT.index(candidate.remat) >= REMAT.index(misfit.remat)
    return same and more and candidate.rows_each >= misfit.rows_each


def search(planner: "Planner", name: str, rows: tuple[int, ...]) -> tuple[Json, bool]:
    """Compiles the candidates one by one and prints them, the fastest first. A search that was stopped goes on where
    it was: what is compiled is in the cache."""
    where = topology.parse(name)
    left = candidates(planner.config(), where, rows)
    if not left:
        raise UserError(
            f"--search: no mesh of {where.device_count} devices divides config.data.batch_rows and the model"
        )
    reports: list[Json] = []
    misfits: list[Candidate] = []
    began, done, total = time.monotonic(), 0, len(left)
    for candidate in left:
        if any(needs_as_much(candidate, misfit) for misfit in misfits):
            total -= 1
            continue
        each = (time.monotonic() - began) / done if done else 0.0
        left_text = f", at most {each * (total - done) / 60:.0f} min left" if done else ""
        cli.note(f"{done + 1} of at most {total}{left_text}: {' '.join(candidate.overrides())}")
        report = planner.report(name, candidate.overrides())
        if not report["memory_per_device"]["fits"] and "refused" not in report["memory_per_device"]:
            misfits.append(candidate)
        reports.append(report)
        done += 1
    reports.sort(key=lambda report: -_rate(report))
    print(table(reports))
    best = reports[0]
    if _rate(best):
        print("the fastest that fits:\n  " + " ".join(best["overrides"]))
    return {"schema": best["schema"], "reports": reports}, bool(_rate(best))


def _rate(report: Json) -> float:
    fits = report["memory_per_device"]["fits"]
    return report["speed"]["tokens_per_second_per_chip"] if fits and "speed" in report else float(fits)


def own_mesh(config: ConfigDict, where: Topology) -> tuple[int, int, int] | None:
    """config.mesh on a topology as (replica, fsdp·ring, tensor); None where it, rows or model cannot be split so."""
    sizes = [config.mesh.replica, config.mesh.fsdp, config.mesh.ring, config.mesh.tensor]
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = where.device_count // rest if where.device_count % rest == 0 else 0
    replica, fsdp, tensor = sizes[0], sizes[1] * sizes[2], sizes[3]
    if math.prod(sizes) != where.device_count or replica % where.slices:
        return None
    rows, (model, _) = config.data.batch_rows, aot.shapes(config)
    possible = rows % (config.optim.accumulate * replica * fsdp) == 0 and _divides(model, fsdp, tensor)
    return (replica, fsdp, tensor) if possible else None


def mesh_for(config: ConfigDict, where: Topology) -> tuple[str, ...]:
    """Overrides that make config.mesh possible on a topology, with as much `fsdp` as can be; none where it is already.

    Raises:
      UserError: no mesh of so many devices divides rows and model.
    """
    if own_mesh(config, where):
        return ()
    model, _ = aot.shapes(config)
    inside = where.device_count // where.slices
    for fsdp in range(inside, 0, -1):
        fits = inside % fsdp == 0 and config.data.batch_rows % (where.slices * fsdp) == 0
        if fits and _divides(model, fsdp, inside // fsdp):
            accumulate = math.gcd(config.optim.accumulate, config.data.batch_rows // where.slices // fsdp)
            sizes = (("replica", where.slices), ("fsdp", fsdp), ("tensor", inside // fsdp))
            mesh = tuple(f"--config.mesh.{axis}={size}" for axis, size in sizes)
            return (*mesh, f"--config.optim.accumulate={accumulate}")
    raise UserError(f"topology {where.name}: no mesh of {where.device_count} devices divides rows and model")


def least(config: ConfigDict, where: Topology) -> tuple[str, ...]:
    """Overrides for the least memory on config.mesh: one row at a time, and all that can be is computed again."""
    mesh = own_mesh(config, where)
    assert mesh  # that of mesh_for
    replica, fsdp, _ = mesh
    accumulate = config.data.batch_rows // replica // fsdp
    return f"--config.optim.accumulate={accumulate}", f"--config.model.remat={REMAT[0]}"


def smallest(planner: "Planner", generation: str) -> tuple[Json, bool]:
    """Tries the slices of a generation from the smallest on, by memory alone, and reports on the first that fits: as
    the configuration says, else with the least memory it can do with."""
    if generation not in topology.GENERATIONS:
        raise UserError(f"--smallest={generation}: one of {', '.join(topology.GENERATIONS)}")
    config = planner.config()
    bound = estimate.state_bytes(config, aot.shapes(config)[0])
    tried: list[Json] = []
    for where in topology.sizes(generation):
        if bound / where.device_count > where.chip.hbm:
            cli.note(f"{where.name}: too small for the parameters and their moments alone")
            continue
        try:
            mesh = mesh_for(config, where)
        except UserError as error:
            cli.note(str(error))
            continue
        frugal = (*mesh, *least(planner.config(mesh), where))
        for overrides in dict.fromkeys((mesh, frugal)):
            cli.note(" ".join((f"{where.name}: trying", *overrides)))
            tried.append(planner.report(where.name, overrides, memory_only=True))
            if tried[-1]["memory_per_device"]["fits"]:
                if not planner.flags.memory_only:
                    tried[-1] = planner.report(where.name, overrides)
                print(table(tried))
                return {"schema": tried[0]["schema"], "reports": tried}, True
    if not tried:
        raise UserError(f"--smallest={generation}: no mesh of any slice divides config.data.batch_rows and the model")
    print(table(tried))
    return {"schema": tried[0]["schema"], "reports": tried}, False


def table(reports: list[Json]) -> str:
    """A line for each report."""
    lines = [f"{'topology':14}{'memory':>18}{'step s':>9}{'tok/s/chip':>12}{'MFU':>7}{'hours':>8}{'USD':>10}  settings"]
    for report in reports:
        memory, speed, cost = report["memory_per_device"], report.get("speed"), report.get("cost")
        size = f"{memory['peak'] / 1e9:.1f}/{memory['capacity'] / 1e9:.1f} GB" if "peak" in memory else "not known"
        size += "" if memory["fits"] else " NO"
        line = f"{report['topology']['name']:14}{size:>18}"
        if speed:
            line += f"{speed['step_seconds']:9.3f}{speed['tokens_per_second_per_chip']:12.0f}{speed['mfu']:7.1%}"
            usd = f"{cost['usd']['on_demand']:,.0f}" if cost and "on_demand" in cost["usd"] else "-"
            line += f"{cost['hours']:8.2f}{usd:>10}" if cost else f"{'-':>8}{'-':>10}"
        else:
            line += " " * 46
        lines.append(f"{line}  {' '.join(o.removeprefix('--config.') for o in report['overrides'])}".rstrip())
    lines.append(f"({estimate.CAVEAT}; USD on demand)")
    return "\n".join(lines)
