"""Metrics of a run: one JSONL row a step (always), TensorBoard, and a progress line on stderr."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from msm_jax import artifact
from msm_jax.data import Content
from msm_jax.timings import Timings

FILE = "metrics.jsonl"


def read(run: str | Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics, in order of steps."""
    return artifact.read_jsonl(Path(run) / FILE)


class Writer:
    """Buffers device scalars and fetches them some steps later, so that logging never stalls a step.

    Of several processes all fetch, which keeps them within `every` steps of each other and of their devices; the
    first one writes.
    """

    def __init__(self, run: Path | None, start: int, total: int, every: int, timings: Timings) -> None:
        """
        Args:
          run: the directory to write into; None on processes that write nothing.
          start: the first step that will be written; rows of later steps, left by a killed run, are dropped.
        """
        self._file, self._board = None, None
        if run is not None:
            path = run / FILE
            if path.is_file():  # a killed run may have left rows past its last checkpoint, the last one perhaps half
                with path.open() as f:
                    kept = [line for _, line in zip(range(start), f, strict=False)]
                artifact.write_atomic(path, "".join(kept))
            self._file = path.open("a")
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self._total, self._every, self._timings = total, every, timings
        self._buffer: list[tuple[int, dict[str, jax.Array], Content]] = []
        self._shown = 0.0
        timings.begin()

    def write(self, step: int, metrics: dict[str, jax.Array], content: Content) -> None:
        """`metrics`: float32 scalars of the update number `step` (from 0), which may still be running; `content`: of
        its batch."""
        self._buffer.append((step, metrics, content))
        if step + 1 == self._total:
            self.flush()
        elif len(self._buffer) > self._every:
            self._fetch(self._every)  # all but the newest: the device has that one to work on meanwhile

    def flush(self) -> None:
        """Everything buffered goes to disk; called before each checkpoint, so that no step is missing after it."""
        self._fetch(len(self._buffer))

    def _fetch(self, count: int) -> None:
        done, self._buffer = self._buffer[:count], self._buffer[count:]
        if not done:
            return
        fetched = jax.device_get([metrics for _, metrics, _ in done])  # waits for the last of them
        last = done[-1][0] + 1
        window = self._timings.window(last, [content for _, _, content in done])
        if self._file is None or self._board is None:
            return
        for (step, _, _), row in zip(done, fetched, strict=True):
            values = {name: float(value) for name, value in row.items()}
            self._file.write(json.dumps({"step": step} | values) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        self._file.flush()
        for name, value in window.items():
            if name not in ("event", "time", "step"):
                self._board.add_scalar(f"timings/{name}", value, last - 1)
        self._progress(last, values["loss"], window)

    def _progress(self, done: int, loss: float, window: dict[str, Any]) -> None:
        now = time.monotonic()
        last = done == self._total
        if not last and now - self._shown < (0.5 if sys.stderr.isatty() else 10.0):
            return
        self._shown = now
        left = (self._total - done) * self._timings.seconds / self._timings.updates
        mfu = f"  MFU {window['mfu']:.1%}" if "mfu" in window else ""
        line = f"step {done}/{self._total}  loss {loss:.4f}  {window['tokens_per_second']:,.0f} tokens/s{mfu}  "
        end = "\n" if last or not sys.stderr.isatty() else ""
        print(("\r" if sys.stderr.isatty() else "") + f"{line}{left:.0f} s left", file=sys.stderr, end=end, flush=True)

    def close(self) -> None:
        self.flush()
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()
