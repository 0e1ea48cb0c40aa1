"""What looks at a run while it runs: losses that are not finite or jump, and updates that never end."""

import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from msm_jax import cli
from msm_jax.cli import UserError
from msm_jax.mixture import Mixture

FILE = "anomalies.jsonl"
WINDOW, ENOUGH = 128, 32  # losses that are looked back on, and how many there must be to call one unusual
SHOWN = 8  # rows named in a report
STATUS_HUNG = 4


class Anomalies:
    """Judges the loss of every update, in order; of what is unusual it tells which documents were trained on."""

    def __init__(self, mixture: Mixture, batch_rows: int, spike: float, max_skipped: int, before: Sequence[float]):
        """
        Args:
          spike: a loss so many standard deviations above the median of the last WINDOW is reported; 0: none is.
          max_skipped: more updates than these, one after the other, without a finite loss and gradient end the run.
          before: losses of the updates before the first one that will be judged.
        """
        self._mixture, self._batch_rows, self._spike, self._max = mixture, batch_rows, spike, max_skipped
        self._losses = deque((x for x in before if x is not None), maxlen=WINDOW)
        self._in_a_row, self._too_many_at = 0, 0

    def judge(self, step: int, loss: float, skipped: bool, rows: Any) -> dict[str, Any] | None:
        """A row for anomalies.jsonl, or None where all is as usual. `rows`: loss.Rows of the batch, as numpy."""
        median, deviation = self._usual()
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row > self._max and not self._too_many_at:
            self._too_many_at = step + 1
        if math.isfinite(loss):
            self._losses.append(loss)
        jumped = self._spike and deviation and loss > median + self._spike * deviation
        if not skipped and not jumped:
            return None
        kind = "not finite" if skipped else "spike"
        finite = loss if math.isfinite(loss) else None
        return {"step": step, "kind": kind, "loss": finite, "median": median or None, "rows": self._worst(step, rows)}

    def check(self) -> None:
        """Raises UserError where too many updates in a row were skipped."""
        if self._too_many_at:
            raise UserError(
                f"{self._max + 1} updates in a row, up to number {self._too_many_at}, had a loss or gradient that is "
                f"not finite and were skipped (guards.max_skipped = {self._max}); checkpoints are as they were, {FILE} "
                "names the documents; a lower optim.lr or optim.clip_norm, or float32 products, may help"
            )

    def _usual(self) -> tuple[float, float]:
        """Median and robust standard deviation (1.4826 times the median distance, at least a hundredth of the
        median); zeros while too little is known."""
        if len(self._losses) < ENOUGH:
            return 0.0, 0.0
        median = statistics.median(self._losses)
        spread = 1.4826 * statistics.median(abs(x - median) for x in self._losses)
        return median, max(spread, 0.01 * abs(median))

    def _worst(self, step: int, rows: Any) -> list[dict[str, Any]]:
        """The rows of the update's batch with the highest mean loss, those without a finite one first."""
        with np.errstate(invalid="ignore"):
            mean = np.asarray(rows.loss, np.float64) / np.maximum(np.asarray(rows.weight, np.float64), 1e-6)
        order = np.argsort(-np.where(np.isfinite(mean), mean, np.inf), kind="stable")[:SHOWN]
        found = []
        for n in order:
            source, record = self._mixture.place(step * self._batch_rows + int(n))
            shards = self._mixture.sources[source]
            value = float(mean[n]) if math.isfinite(mean[n]) else None
            place = {"source": str(shards.directory), "record": record}
            found.append(place | {"loss": value, "documents": shards.documents(record)})
        return found


class Watchdog:
    """Dumps the stacks of all threads when beat() was not called for some minutes, and after as many more ends the
    process, so that whatever started it can start it again. Works while the main thread waits for the devices."""

    def __init__(self, minutes: float, directory: Path) -> None:
        """`minutes`: 0 switches it off. `directory`: on this machine; gets stacks-PROCESS.txt."""
        self._limit, self._path = 60.0 * minutes, directory / f"stacks-{jax.process_index()}.txt"
        self._last, self._ended = time.monotonic(), threading.Event()
        if minutes:
            threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        self._last = time.monotonic()

    def close(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        dumped = 0.0
        while not self._ended.wait(min(5.0, self._limit / 4)):
            last = self._last
            if time.monotonic() - last > self._limit and dumped != last:
                dumped = last
                with self._path.open("a") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                line = f"no update ended for {self._limit / 60:g} minutes; stacks are in {self._path}"
                cli.warn(f"{line}; waiting as long again")
            if time.monotonic() - last > 2 * self._limit:
                line = f"no update ended for {self._limit / 30:g} minutes; stacks are in {self._path}"
                print(f"error: {line}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
                os._exit(STATUS_HUNG)
