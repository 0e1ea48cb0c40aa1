"""Does a run fit a TPU slice, how fast is it, what does it cost? Answered on a laptop: libtpu compiles, nothing runs.

    python -m msm_jax.plan --config=configs/qwen3_32b_msm.py --topology=v5p:2x2x4
    python -m msm_jax.plan --config=… --topologies=v5p:2x2x2,v5p:2x2x4     several, side by side
    python -m msm_jax.plan --config=… --smallest=v5p                       the smallest slice that fits
    python -m msm_jax.plan --config=… --topology=v5p:4x4x4 --search        mesh, microbatch and recomputation

Beside --config and --config.key=value:
  --topology=v5p:4x4x4     a slice; v5p:4x4x4*2 is two of them, with config.mesh.replica=2 between them
  --memory_only            does it fit, without the schedule: compiles faster, with smaller tiles for matrix products
  --seq_len=8192           tokens in a row, where config.data.sources are not there and config.data.seq_len is not set
  --tokens=4e7             length of the run, where config.optim.steps and the rows do not tell
  --rows=16,32             with --search: global batches to try; else config.data.batch_rows alone
  --top=20                 shows what takes longest
  --prices=FILE            USD per chip-hour; the default is msm_jax/prices.toml
  --cache=DIR              where answers are kept; else $MSM_JAX_CACHE, else ~/.cache/msm_jax; it can be copied
  --executable             keeps the compiled step in the cache, for the same libtpu and slice
  --out=FILE               writes the report, every number with its method, as JSON
Exit status: 0 where it fits (several: where one does), 1 where it does not, 2 on a mistake.
"""

import dataclasses
import difflib
import os
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from msm_jax import aot, artifact, cli, estimate, plan_search, schedule, topology
from msm_jax.cli import UserError
from msm_jax.estimate import Json, Rows

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Flags:
    """The command's own settings; see above."""

    topology: str = ""
    topologies: tuple[str, ...] = ()
    smallest: str = ""
    search: bool = False
    memory_only: bool = False
    executable: bool = False
    seq_len: int = 0
    tokens: float = 0.0
    rows: tuple[int, ...] = ()
    top: int = 0
    prices: str = str(estimate.PRICES)
    cache: str = ""
    out: str = ""


def flags_of(argv: list[str]) -> tuple[Flags, list[str]]:
    """(the command's settings, the rest of argv).

    Raises:
      UserError: an unknown setting, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(Flags)}
    found: dict[str, Any] = {}
    rest = argv[:1]
    for arg in argv[1:]:
        name, equals, text = arg.removeprefix("--").partition("=")
        if arg.startswith("--config"):
            rest.append(arg)
        elif not arg.startswith("--") or name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0)[0]
            raise UserError(f"unexpected argument {arg!r}; did you mean --{near}?")
        else:
            found[name] = _value(name, text if equals else "true", fields[name].default)
    flags = Flags(**found)
    if sum((bool(flags.topology), bool(flags.topologies), bool(flags.smallest))) != 1:
        raise UserError("give one of --topology=v5p:4x4x4, --topologies=…,… and --smallest=v5p")
    if flags.search and not flags.topology:
        raise UserError("--search: for one slice; add --topology=…")
    return flags, rest


def _value(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(int(part) if name == "rows" else part for part in text.split(",") if part)
        value = type(default)(float(text)) if isinstance(default, int) else type(default)(text)
    except (KeyError, ValueError) as error:
        raise UserError(f"--{name}={text}: not what is wanted here; --help shows an example") from error
    if isinstance(default, int | float) and value < 0:
        raise UserError(f"--{name}={text}: must not be negative")
    return value


def cache_of(flags: Flags) -> Path:
    return Path(flags.cache or os.environ.get("MSM_JAX_CACHE") or Path.home() / ".cache" / "msm_jax").expanduser()


@dataclasses.dataclass(frozen=True)
class Planner:
    """Reports on variants of one configuration."""

    flags: Flags
    arguments: tuple[str, ...]  # --config=FILE and its overrides
    rows: Rows
    prices: Json

    @classmethod
    def of(cls, argv: list[str]) -> "Planner":
        flags, rest = flags_of(argv)
        config = cli.parse_config(rest)
        rows = estimate.rows_of(config, flags.seq_len)
        return cls(flags, tuple(rest[1:]), rows, estimate.read_prices(flags.prices))

    def config(self, overrides: tuple[str, ...] = ()) -> ConfigDict:
        return cli.parse_config(["plan", *self.arguments, *overrides])

    def report(self, name: str, overrides: tuple[str, ...] = (), memory_only: bool = False) -> Json:
        """Of one topology.

        Raises:
          UserError: the configuration or the topology cannot be.
        """
        where, config = topology.parse(name), self.config(overrides)
        only = memory_only or self.flags.memory_only
        request = aot.Request((*self.arguments, *overrides), where.name, self.rows.seq_len, only, self.flags.executable)
        result = aot.run(request, cache_of(self.flags))
        report = {
            "schema": SCHEMA,
            "caveat": estimate.CAVEAT,
            "topology": result.get("topology", {"name": where.name, "chips": where.chips}),
            "overrides": list(overrides),
            "config": cli.flatten(config),
            "config_digest": artifact.digest(cli.flatten(config)),
            "mesh": result["mesh"] if "mesh" in result else config.mesh.to_dict(),
            "memory_only": only,
            "memory_per_device": estimate.memory(result, where),
            "methods": estimate.METHODS | schedule.METHODS,
            "warnings": self._warnings(result, only),
        }
        report |= {key: result.get(key) for key in ("versions", "options", "program", "model", "lora", "seq_len")}
        report["memory_analysis"] = result.get("memory")
        if report["memory_per_device"]["fits"] is False and "refused" not in report["memory_per_device"]:
            report["advice"] = estimate.advice(config, where)
        if "schedule" in result:
            speed = estimate.speed(result, config, where, self.rows)
            tokens, how = estimate.budget(config, self.rows, self.flags.tokens)
            run = estimate.cost(speed, tokens, where, self.prices) if tokens else None
            report |= {"schedule": result["schedule"], "mfu_account": estimate.MFU_ACCOUNT}
            report |= {"speed": speed, "budget": how, "cost": run}
        return report

    def _warnings(self, result: Json, memory_only: bool) -> list[str]:
        found = list(result.get("schedule", {}).get("warnings", []))
        for what, paths in (
            ("whole on every device", result.get("large_replicated", [])),
            ("leave a step on other devices than they entered it", result.get("memory", {}).get("moved_state", [])),
        ):
            if paths:
                found.append(f"{len(paths)} arrays are {what}: {', '.join(paths[:4])}")
        if memory_only:
            found.append("memory only: compiled with smaller tiles, which at real sizes changes less than a percent")
        return found


def one(planner: Planner) -> tuple[Json, bool]:
    """Prints one topology's report."""
    flags = planner.flags
    report = planner.report(flags.topology)
    print("\n".join(estimate.lines_of(report)))
    for line in report.get("advice", []):
        print(f"- may help: {line}")
    for row in report.get("schedule", {}).get("longest", [])[: flags.top]:
        print(f"{row['seconds'] * 1e3:9.1f} ms {row['count']:6} {row['part']:8} {row['op']:40} {row['source']}")
    return report, report["memory_per_device"]["fits"]


def several(planner: Planner) -> tuple[Json, bool]:
    """Prints a table of the topologies in --topologies."""
    reports = []
    for name in planner.flags.topologies:
        overrides = plan_search.mesh_for(planner.config(), topology.parse(name))
        reports.append(planner.report(name, overrides))
    print(plan_search.table(reports))
    return {"schema": SCHEMA, "reports": reports}, any(r["memory_per_device"]["fits"] for r in reports)


def main(argv: list[str]) -> None:
    planner = Planner.of(argv)
    flags = planner.flags
    if flags.search:
        report, fits = plan_search.search(planner, flags.topology, flags.rows)
    elif flags.smallest:
        report, fits = plan_search.smallest(planner, flags.smallest)
    else:
        report, fits = several(planner) if flags.topologies else one(planner)
    if flags.out:
        estimate.write(Path(flags.out), report)
    if not fits:
        sys.exit(1)


if __name__ == "__main__":
    cli.entry(main)
