"""When a run saves, and when it is told to stop."""

import signal
import threading
import time
from types import FrameType

import jax
from jax.experimental import multihost_utils

from msm_jax import distributed

STATUS_PREEMPTED = 128 + signal.SIGTERM  # what a shell reports of a process that ended so


class Saving:
    """Is a save due after an update? By steps, by minutes, and never while another one is on its way: then at the
    first step after it. All processes must ask at the same steps and get the same answer, the first one's."""

    def __init__(self, every_steps: int, every_minutes: float, look_steps: int) -> None:
        """`every_steps`, `every_minutes`: 0 switches either off. `look_steps`: how often the clock is looked at."""
        self._steps, self._seconds, self._look = every_steps, 60.0 * every_minutes, look_steps
        self._since = time.monotonic()
        self._due = False

    def due(self, step: int, busy: bool) -> bool:
        """`step`: updates done; `busy`: a save is on its way."""
        if self._steps and step % self._steps == 0:
            self._due = True
        elif self._seconds and not self._due and step % self._look == 0:
            self._due = distributed.of_first("save by the clock", time.monotonic() - self._since > self._seconds)
        return self._due and not distributed.of_first("a save is on its way", busy)

    def saved(self) -> None:
        """Hears of every save."""
        self._due, self._since = False, time.monotonic()


class Preemption:
    """Has somebody told this run to stop? Within the block SIGTERM, which a cloud sends ahead of taking a machine, only
    sets a flag. Of several processes JAX's preemption service hears it and finds a step that all have yet to do."""

    def __init__(self) -> None:
        self._told = False
        self._alone = jax.process_count() == 1
        self._before: object = None

    def __enter__(self) -> "Preemption":
        if self._alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _hear(self, _: int, __: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Is `step` (updates done) the one to stop at? All processes must ask at every step."""
        return self._told if self._alone else multihost_utils.reached_preemption_sync_point(step)
