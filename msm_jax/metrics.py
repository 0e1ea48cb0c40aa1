"""Metrics of a run: one JSONL row a step (always), TensorBoard, and a progress line on stderr."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from msm_jax import artifact, cli
from msm_jax.data import Content
from msm_jax.guards import FILE as ANOMALIES
from msm_jax.guards import Anomalies
from msm_jax.spool import Spool
from msm_jax.step import Metrics
from msm_jax.timings import Timings

FILE = "metrics.jsonl"
Row = dict[str, Any]


def read(run: epath.PathLike) -> list[Row]:
    """All rows of a run's metrics, in order of steps."""
    return artifact.read_jsonl(epath.Path(run) / FILE)


class Writer:
    """Buffers device scalars and fetches them some steps later, so that logging never stalls a step.

    Of several processes all fetch, and all judge; the first one writes. A value that is not finite is null.
    """

    def __init__(
        self,
        spool: Spool | None,
        before: dict[str, str],
        start: int,
        total: int,
        every: int,
        timings: Timings,
        anomalies: Anomalies,
    ) -> None:
        """
        Args:
          spool: of the run; None on processes that write nothing.
          before: of a run that is resumed the logs() saved with its checkpoint, {} else: the files begin with them,
            so what a killed run wrote after its last checkpoint is gone, and nothing before it is missing.
          start, total: the first step that will be written, and the number of all steps.
        """
        self._lines = {name: before.get(name, "").splitlines(keepends=True) for name in (FILE, ANOMALIES)}
        self._spool = spool
        self._files = {}
        if spool is not None:
            self._files = {name: spool.path(name, text).open("a") for name, text in self.logs().items()}
            self._board = Board(spool.directory / "tensorboard", start)
        self._total, self._every, self._timings, self._anomalies = total, every, timings, anomalies
        self._buffer: list[tuple[int, Metrics, Content]] = []
        self._shown = 0.0
        timings.begin()

    def write(self, step: int, metrics: Metrics, content: Content) -> None:
        """`metrics`: of the update number `step` (from 0), which may still be running; `content`: of its batch.

        Raises:
          UserError: too many updates were skipped.
        """
        self._buffer.append((step, metrics, content))
        if step + 1 == self._total:
            self.flush()
        elif len(self._buffer) > self._every:
            self._fetch(self._every)  # all but the newest: the device has that one to work on meanwhile

    def flush(self) -> None:
        """Everything buffered is written; called before each checkpoint, so that no step is missing after it."""
        self._fetch(len(self._buffer))

    def logs(self) -> dict[str, str]:
        """File → its text, of all that was flushed."""
        return {name: "".join(lines) for name, lines in self._lines.items()}

    def _fetch(self, count: int) -> None:
        done, self._buffer = self._buffer[:count], self._buffer[count:]
        if not done:
            return
        fetched = jax.device_get([metrics for _, metrics, _ in done])  # waits for the last of them
        last = done[-1][0] + 1
        window = self._timings.window(last, [content for _, _, content in done])
        for (step, _, _), found in zip(done, fetched, strict=True):
            row = {"step": step} | _values(found)
            self._append(FILE, row)
            if unusual := self._anomalies.judge(step, float(found.loss), bool(found.skipped), found.rows):
                self._append(ANOMALIES, unusual)
                documents = [document for row in unusual["rows"][:2] for document in row["documents"][:3]]
                loss = "not finite, update skipped" if found.skipped else f"{found.loss:.4f}, a spike"
                cli.note(f"step {step + 1}: loss {loss}; {ANOMALIES} has the rows ({', '.join(documents)}, …)")
            if self._spool is not None:
                self._board.write(step, row)
        if self._spool is not None:
            self._board.write(last - 1, {f"timings/{name}": value for name, value in window.items()})
            self._flush_files()
            self._progress(last, float(found.loss), window)
        self._anomalies.check()

    def _append(self, name: str, row: Row) -> None:
        line = json.dumps(row, allow_nan=False) + "\n"
        self._lines[name].append(line)
        if name in self._files:
            self._files[name].write(line)

    def _flush_files(self) -> None:
        for file in self._files.values():
            file.flush()
        self._board.flush()
        if self._spool is not None:
            self._spool.send()

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
        if self._spool is not None:
            self._flush_files()
            for file in self._files.values():
                file.close()
            self._board.close()


def _values(metrics: Metrics) -> Row:
    """The scalars of a step, as JSON has them."""
    floats = {name: float(getattr(metrics, name)) for name in ("loss", "grad_norm", "loss_weight")}
    finite = {name: value if math.isfinite(value) else None for name, value in floats.items()}
    return finite | {"skipped": int(metrics.skipped), "batch": int(metrics.batch)}


class Board:
    """Scalars for TensorBoard, written by the thread that has them: on a full disk it is told so."""

    def __init__(self, directory: Path, start: int) -> None:
        """What an earlier start wrote of steps from `start` on no longer counts."""
        directory.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(directory / "events"))
        began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=start, session_log=began))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Numbers become scalars, everything else is left out."""
        for name, value in values.items():
            if isinstance(value, int | float) and name.rpartition("/")[2] not in ("step", "time", "batch"):
                event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
                self._events.write_event(event)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()
