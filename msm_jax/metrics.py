"""Metrics of a run: one JSONL row a step (always), TensorBoard, and a progress line on stderr."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from msm_jax import artifact

FILE = "metrics.jsonl"


def read(run: str | Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics, in order of steps."""
    return artifact.read_jsonl(Path(run) / FILE)


class Writer:
    """Buffers device scalars and fetches them every `every` steps, so that logging never stalls a step."""

    def __init__(self, run: Path, start: int, total: int, every: int, tokens_per_step: int) -> None:
        """`start`: the first step that will be written; rows of later steps, left by a killed run, are dropped."""
        path = run / FILE
        if path.is_file():  # a killed run may have left rows past its last checkpoint, the last one perhaps half
            with path.open() as f:
                kept = [line for _, line in zip(range(start), f, strict=False)]
            artifact.write_atomic(path, "".join(kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self._total, self._every, self._tokens = total, every, tokens_per_step
        self._buffer: list[tuple[int, dict[str, jax.Array]]] = []
        self._start, self._began, self._shown = start, time.monotonic(), 0.0

    def write(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """`metrics`: float32 scalars of the update number `step` (from 0)."""
        self._buffer.append((step, metrics))
        if len(self._buffer) >= self._every or step + 1 == self._total:
            self.flush()
            self._progress(step)

    def flush(self) -> None:
        """Everything buffered goes to disk; called before each checkpoint, so that no step is missing after it."""
        for step, row in jax.device_get(self._buffer):
            values = {name: float(value) for name, value in row.items()}
            self._file.write(json.dumps({"step": step} | values) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._last = values
        self._file.flush()
        self._buffer.clear()

    def _progress(self, step: int) -> None:
        now = time.monotonic()
        last = step + 1 == self._total
        if not last and now - self._shown < (0.5 if sys.stderr.isatty() else 10.0):
            return
        self._shown = now
        rate = (step + 1 - self._start) / (now - self._began)
        left = (self._total - step - 1) / rate
        line = (
            f"step {step + 1}/{self._total}  loss {self._last['loss']:.4f}  "
            f"{rate * self._tokens:,.0f} tokens/s  {left:.0f} s left"
        )
        end = "\n" if last or not sys.stderr.isatty() else ""
        print(("\r" if sys.stderr.isatty() else "") + line, file=sys.stderr, end=end, flush=True)

    def close(self) -> None:
        self.flush()
        self._file.close()
        self._board.close()
