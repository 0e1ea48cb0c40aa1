"""What a run's time is spent on: timings.jsonl, apart from metrics.jsonl because times differ from run to run.

A row has `event`, `time` (Unix seconds) and `step` (updates done):
  start       a process begins, after so many updates; devices, processes, device_kind
  ready       its first update is done: seconds since the process began, and what they went into (Startup)
  steps       a window of updates: seconds and rates, how full the rows are, MFU, memory
  checkpoint  seconds the loop stood still to begin a save
  end         goodput of the whole run
The file is never cut: what a kill undid stays in it, and counts as lost.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
from etils import epath

from msm_jax import artifact
from msm_jax.data import Content
from msm_jax.spool import Spool

FILE = "timings.jsonl"
Row = dict[str, Any]


def read(run: epath.PathLike) -> list[Row]:
    """All rows of a run's timings, oldest first."""
    return artifact.read_jsonl(epath.Path(run) / FILE)


def goodput(rows: list[Row], now: float) -> float:
    """The share of the time since the run's first start, restarts and pauses included, that went into updates that
    were not undone: 0 to 1."""
    kept: list[Row] = []
    for row in rows:
        if row["event"] == "start":  # from its step on, what was done before is done again
            kept = [window for window in kept if window["step"] <= row["step"]]
        elif row["event"] == "steps":
            kept.append(row)
    spent = sum(window["seconds"] for window in kept)
    return spent / max(now - rows[0]["time"], spent, 1e-9)  # clocks may have been set back


class Startup:
    """The time from the process's beginning to its first update, in parts: call part() at the end of each."""

    _first = True  # the second run of one process begins when it is asked for

    def __init__(self) -> None:
        self.began = _process_began() if Startup._first else time.time()  # Unix seconds
        Startup._first = False
        self.parts: dict[str, float] = {}
        self._cached = 0
        jax.monitoring.register_event_listener(self._hear)
        self._last = time.time()
        self.parts["imports"] = max(0.0, self._last - self.began)

    def part(self, name: str) -> None:
        now = time.time()
        self.parts[name] = self.parts.get(name, 0.0) + max(0.0, now - self._last)
        self._last = now

    def _hear(self, event: str, **_: Any) -> None:
        self._cached += event == "/jax/compilation_cache/cache_hits"

    def summary(self) -> tuple[dict[str, Any], str]:
        """Fields of a `ready` row, and a line for the person watching."""
        jax.monitoring.unregister_event_listener(self._hear)
        total = sum(self.parts.values())
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        line = f"first update {total:.1f} s after the start: {parts}; {self._cached} programs from the cache"
        return {"seconds": total, **self.parts, "programs_from_cache": self._cached}, line


def _process_began() -> float:
    """Unix seconds; where the system does not tell, now."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return float(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return time.time()


class Timings:
    """The clock of a run. All processes measure, the first one writes."""

    def __init__(self, spool: Spool | None, *, tokens_per_step: int, flops: Any, peak: float | None) -> None:
        """
        Args:
          spool: of the run; None on processes that write nothing.
          tokens_per_step: padding included.
          flops: (tokens, pairs) → arithmetic they need, perf.step_flops of the model.
          peak: FLOP/s of all devices together; None where nobody knows, and MFU is left out.
        """
        self._rows: list[Row] = []
        self._file = None
        if spool is not None:
            path = spool.path(FILE)
            if path.is_file():
                text = path.read_text()
                whole = text[: text.rfind("\n") + 1]  # a kill may have left half a row
                if whole != text:
                    artifact.write_atomic(path, whole)
                self._rows = artifact.read_jsonl(path)
            self._file = path.open("a")
        self._tokens, self._flops, self._peak = tokens_per_step, flops, peak
        self._since = time.monotonic()
        self.seconds, self.updates = 0.0, 0  # in windows of this process, for a rate

    def event(self, event: str, step: int, at: float | None = None, **fields: Any) -> Row:
        """Writes a row; `at` is its time, now where it is not given."""
        row = {"event": event, "time": time.time() if at is None else at, "step": step} | fields
        self._rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        return row

    def begin(self) -> None:
        """A window begins here."""
        self._since = time.monotonic()

    def window(self, step: int, contents: list[Content]) -> Row:
        """The updates of `contents`, the last of them number `step` (from 1), are known to be done now."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self.seconds, self.updates = self.seconds + seconds, self.updates + len(contents)
        tokens = self._tokens * len(contents)
        sums = [sum(column) for column in zip(*contents, strict=True)]
        useful = Content(*sums)
        fields = {
            "updates": len(contents),
            "seconds": seconds,
            "step_seconds": seconds / len(contents),
            "tokens_per_second": tokens / seconds,
            "tokens_per_second_per_device": tokens / seconds / jax.device_count(),
            "useful_fraction": useful.tokens / tokens,
            "supervised_fraction": useful.supervised / max(useful.tokens, 1.0),
            "data_wait_seconds": useful.waited,
        }
        if self._peak is not None:
            fields["mfu"] = self._flops(useful.tokens, useful.pairs) / seconds / self._peak
        row = self.event("steps", step, **fields, **memory())
        return row

    @contextlib.contextmanager
    def pause(self, event: str, step: int) -> Iterator[None]:
        """Work between two windows."""
        began = time.monotonic()
        yield
        self.event(event, step, seconds=time.monotonic() - began)
        self.begin()

    def goodput(self) -> float:
        return goodput(self._rows, time.time())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def memory() -> dict[str, int]:
    """Bytes in use and their peak, of the fullest device of this host; {} where devices do not tell."""
    stats = [found for device in jax.local_devices() if (found := device.memory_stats())]
    names = {"hbm_bytes": "bytes_in_use", "hbm_peak_bytes": "peak_bytes_in_use"}
    return {ours: max(s[theirs] for s in stats) for ours, theirs in names.items() if stats and theirs in stats[0]}
