"""From a compiled step to what a researcher asks: does it fit, how fast is it, what does the run cost. Plain numbers;
msm_jax.plan prints what these functions return."""

import dataclasses
import itertools
import json
import math
import tomllib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from msm_jax import artifact, perf, topology
from msm_jax.cli import UserError
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.model.remat import REMAT
from msm_jax.sharding import AXES
from msm_jax.topology import Topology

Json = dict[str, Any]
PRICES = Path(__file__).with_name("prices.toml")
SIDECAR = "rows.jsonl"
METHODS = {
    "memory_per_device.peak": ("the compiler's buffer assignment, the one the hardware would get", "high"),
    "memory_per_device.classes": ("shapes and shardings of the step's arguments, without tile padding", "exact"),
    "speed.mfu": ("model FLOPs over step_seconds and the chip's nominal peak", "as good as step_seconds"),
    "cost": ("updates × step_seconds × price; no start-up, checkpoints, evaluation, preemption", "a lower bound"),
}
CAVEAT = "compiler estimate; nothing ran on a TPU"
MFU_ACCOUNT = (
    "6 FLOP a parameter and token (4 where it is frozen under an adapter), causal attention halved, rows of one "
    "segment; recomputation is not counted"
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What is known of the rows a run reads."""

    seq_len: int  # tokens in a row
    count: int = 0  # rows of all sources; 0: not known
    fill: float = 1.0  # share of positions that are no padding
    pairs: float = 0.0  # (query, key) of a row on average; 0: not known, rows of one segment are assumed


def rows_of(config: ConfigDict, seq_len: int = 0) -> Rows:
    """Of config.data.sources where they are there; else as long as `seq_len`, or config.data.seq_len, says.

    Raises:
      UserError: neither tells, or the sources have rows of another length than `seq_len`.
    """
    directories = [Path(source) for source in config.data.sources]
    if not all((directory / artifact.MANIFEST).is_file() for directory in directories) or not directories:
        asked = seq_len or config.data.get("seq_len", 0)
        if asked < 1:
            raise UserError("config.data.sources: not there, so the length of a row is not known; add --seq_len=8192")
        return Rows(asked)
    counts = [artifact.read_manifest(directory, "shards")["counts"] for directory in directories]
    found = counts[0]["seq_len"]
    if seq_len and seq_len != found:
        raise UserError(f"--seq_len={seq_len}: {directories[0]} has rows of {found} tokens")
    shares = [weight / sum(config.data.weights) for weight in config.data.weights]
    fill = sum(share * count["fill"] for share, count in zip(shares, counts, strict=True))
    pairs = [_pairs(directory / SIDECAR) for directory in directories]
    mean = sum(share * p for share, p in zip(shares, pairs, strict=True)) if all(pairs) else 0.0
    return Rows(found, sum(count["rows"] for count in counts), fill, mean)


def _pairs(sidecar: Path) -> float:
    """Σ n(n+1)/2 over the segments of a row, on average; 0 without the file that lists them."""
    if not sidecar.is_file():
        return 0.0
    rows = artifact.read_jsonl(sidecar)
    return sum(n * (n + 1) / 2 for row in rows for *_, n in row) / max(1, len(rows))


def budget(config: ConfigDict, rows: Rows, tokens: float = 0.0) -> tuple[float, str]:
    """(tokens, padding included, of the whole run, how they are known); 0 where they are not."""
    if tokens:
        return tokens, "--tokens"
    if config.optim.steps:
        return config.optim.steps * config.data.batch_rows * rows.seq_len, "config.optim.steps"
    if rows.count:
        return config.optim.get("epochs", 1.0) * rows.count * rows.seq_len, "the rows of config.data.sources"
    return 0.0, "config.data.sources are not there; add --tokens=…"


def read_prices(path: str | Path = PRICES) -> Json:
    """{"date", "source", "usd_per_chip_hour": {generation: {"on_demand", "spot"}}}.

    Raises:
      UserError: no such file, or no price file.
    """
    try:
        prices = tomllib.loads(Path(path).read_text())
        table = prices["usd_per_chip_hour"]
        good = all(isinstance(usd, int | float) and usd > 0 for kinds in table.values() for usd in kinds.values())
        if not (good and isinstance(prices["date"], str) and isinstance(prices["source"], str)):
            raise KeyError
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a price file; msm_jax/prices.toml shows its form") from error
    return prices


def memory(result: Json, where: Topology) -> Json:
    """Bytes of one device: what must be there, what the compiler adds, whether it fits (the compiler refuses what does
    not). Where something is kept in the host's memory its peak counts that, too, so a bound stands in its place."""
    classes = result["classes"]
    held = sum(classes.values())
    error = result.get("error")
    if error and error["kind"] != "memory":
        return {"fits": False, "classes": classes, "refused": error["message"]}
    if error:
        peak, capacity, found = error["needed"], error["capacity"], {}
    else:
        found = result["memory"]
        peak, capacity = found["peak_memory_in_bytes"], where.chip.hbm
    host = sum(value for name, value in found.items() if name.startswith("host_") and "alias" not in name)
    if host:
        peak = sum(found[f"{what}_size_in_bytes"] for what in ("argument", "temp", "output", "generated_code"))
        peak -= found["alias_size_in_bytes"]
    return {
        "fits": not error,
        "peak": peak,
        "peak_is_bound": bool(host),
        "capacity": capacity,
        "classes": classes,
        "rest": peak - held,
        "temporaries": found.get("temp_size_in_bytes"),
        "host": host,
    }


def speed(result: Json, config: ConfigDict, where: Topology, rows: Rows) -> Json:
    """Of one step: seconds, tokens, MFU."""
    seconds = result["schedule"]["step_seconds"]
    model = ModelConfig(**result["model"])
    lora = LoraConfig(**result["lora"]) if result["lora"] else None
    batch, S = config.data.batch_rows, rows.seq_len
    whole = perf.step_flops(model, lora, batch * S, batch * S * (S + 1) / 2)
    useful = perf.step_flops(model, lora, batch * S * rows.fill, batch * (rows.pairs or S * (S + 1) / 2))
    return {
        "step_seconds": seconds,
        "tokens": batch * S,
        "tokens_per_second_per_chip": batch * S / seconds / where.chips,
        "flops": whole,
        "mfu": whole / seconds / where.device_count / where.chip.flops,
        "useful_fraction": useful / whole,
    }


def cost(speed: Json, tokens: float, where: Topology, prices: Json) -> Json:
    """Of the whole run, without start-up, checkpoints and evaluation; USD only where there is a price."""
    hours = tokens / speed["tokens"] * speed["step_seconds"] / 3600
    kinds = prices["usd_per_chip_hour"].get(where.generation, {})
    usd = {kind: hours * where.chips * price for kind, price in kinds.items()}
    return {
        "tokens": tokens,
        "hours": hours,
        "usd": usd,
        "prices": {"date": prices["date"], "usd_per_chip_hour": kinds},
    }


def advice(config: ConfigDict, where: Topology) -> list[str]:
    """What would take less memory, the cheapest in time first."""
    found, remat = [], config.model.get("remat", REMAT[-1])
    if not config.optim.loss_chunk:
        found.append("--config.optim.loss_chunk=1024 (never holds the logits of a whole row)")
    if remat in REMAT and REMAT.index(remat) > 0:
        found.append(f"--config.model.remat={REMAT[REMAT.index(remat) - 1]} (recomputes more)")
    micro = config.data.batch_rows // config.optim.accumulate
    if micro % 2 == 0 and micro > config.mesh.fsdp:
        found.append(
            f"--config.optim.accumulate={2 * config.optim.accumulate} (half the rows at a time, if they divide)"
        )
    if config.mesh.tensor == 1:
        found.append("--config.mesh.tensor=2 or more (splits activations and the head)")
    larger = next((t for t in topology.sizes(where.generation) if t.chips > where.chips // where.slices), None)
    if larger and where.slices == 1:
        found.append(f"--topology={larger.name} (the next larger slice)")
    if not any("offload" in name for name in REMAT) or "offload" in remat:
        return found
    return [*found, f"--config.model.remat={next(name for name in REMAT if 'offload' in name)} (keeps in host memory)"]


def state_bytes(config: ConfigDict, model: ModelConfig) -> float:
    """Of parameters, or frozen base, and optimizer, over all devices: below this nothing fits."""
    from msm_jax.model.config import param_table

    numbers = sum(math.prod(param.shape(model.dims)) for param in param_table(model).values())
    width = 2 if model.param_dtype == "bfloat16" else 4
    return numbers * (width if config.lora.rank else width + 8)


def write(path: Path, report: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_atomic(path, json.dumps(report, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------- tables of text


def gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.2f} MB"


def lines_of(report: Json) -> list[str]:
    """A report of one topology for a terminal."""
    where, memory = report["topology"], report["memory_per_device"]
    mesh = ", ".join(f"{axis} {report['mesh'][axis]}" for axis in AXES)
    pairs = [("topology", f"{where['name']}, {where['chips']} chips: {mesh}")]
    pairs += _memory_pairs(memory)
    if "speed" in report:
        pairs += _speed_pairs(report)
    notes = [*report["warnings"]]
    if "speed" in report:
        notes.append(f"time: {CAVEAT}; parts and their trust are in the JSON")
        notes.append(f"MFU: {MFU_ACCOUNT}")
    width = max(len(name) for name, _ in pairs)
    return [f"{name:{width}}  {value}" for name, value in pairs] + [f"- {note}" for note in notes]


def _memory_pairs(memory: Json) -> list[tuple[str, str]]:
    classes = [(f"  {name}", gigabytes(size)) for name, size in memory["classes"].items() if size]
    if "refused" in memory:
        return [("fits", f"not known: {memory['refused']}"), *classes]
    peak, capacity = memory["peak"], memory["capacity"]
    verdict = "yes" if memory["fits"] else f"NO, {gigabytes(peak - capacity)} too much"
    bound = "at most " if memory["peak_is_bound"] else ""
    pairs = [("fits", verdict), ("memory", f"{bound}{gigabytes(peak)} of {gigabytes(capacity)} a device"), *classes]
    temporaries = f" (temporaries: {gigabytes(memory['temporaries'])})" if memory["temporaries"] is not None else ""
    pairs.append(("  activations and the rest", gigabytes(memory["rest"]) + temporaries))
    if memory["host"]:
        pairs.append(("host memory", f"{gigabytes(memory['host'])} a device"))
    return pairs


def _speed_pairs(report: Json) -> list[tuple[str, str]]:
    speed, parts, cost = report["speed"], report["schedule"], report["cost"]
    shown = [("step", f"{speed['step_seconds']:.3f} s ({CAVEAT})")]
    for name in ("matmul", "vector", "kernel", "copy", "exposed_collective"):
        shown.append((f"  {name.replace('_', ' ')}", f"{parts[f'{name}_seconds']:.3f} s"))
    if parts["host_bytes"]:
        moved = f"{gigabytes(parts['host_bytes'])}, {parts['host_seconds']:.3f} s, in part hidden"
        shown.append(("  host transfers", moved))
    for row in itertools.islice(parts["collectives"], 5):
        sent = f"{row['count']} times, {gigabytes(row['bytes'])}, {row['seconds']:.3f} s of links"
        shown.append((f"  {row['kind']} ({row['for']})", sent))
    shown.append(("tokens/s/chip", f"{speed['tokens_per_second_per_chip']:.0f}"))
    useful = f"; {speed['useful_fraction']:.1%} of it useful" if speed["useful_fraction"] != 1 else ""
    shown.append(("MFU", f"{speed['mfu']:.1%}{useful}"))
    if not cost:
        return [*shown, ("run", f"length not known: {report['budget']}")]
    usd = ", ".join(f"${dollars:,.0f} {kind.replace('_', ' ')}" for kind, dollars in cost["usd"].items()) or "no price"
    shown.append(("run", f"{cost['tokens'] / 1e6:,.1f} M tokens ({report['budget']}): {cost['hours']:.2f} h, {usd}"))
    return [*shown, ("prices", f"of {cost['prices']['date']}, USD a chip-hour {cost['prices']['usd_per_chip_hour']}")]
