"""What can be seen of a run from outside, by its files and by what it says; cheap enough to be asked every millisecond."""

import dataclasses
import os
import re
from pathlib import Path

from msm_jax import artifact, metrics
from msm_jax.checkpoint import SUBDIRECTORY
from msm_jax.run_directory import STATE

PHASES = ("imports", "restore", "compile", "loop", "save", "end")
_FROM = re.compile(r" updates of .* from (?:step (\d+)|.+)$", re.MULTILINE)
_DONE = "already made, skipped"


@dataclasses.dataclass
class Sight:
    """A run directory while one command works on it. `look` brings it up to date.

    steps: complete checkpoints by their names: a step gets its name, by renaming, when it is complete.
    saves: how many saves were seen to begin or to end.
    """

    run: Path
    log: Path
    last_step: int
    steps: set[int] = dataclasses.field(default_factory=set)
    seen: set[int] = dataclasses.field(default_factory=set)
    temporaries: set[str] = dataclasses.field(default_factory=set)
    saves: int = 0
    rows: int = 0
    touched: bool = False
    spoke: bool = False
    looping: bool = False
    sealing: bool = False
    sealed: bool = False

    def __post_init__(self) -> None:
        self._state, self._metrics, self._said = self._stamp(STATE), self._stamp(metrics.FILE), 0
        self.look()
        self.saves = 0

    def _stamp(self, name: str) -> tuple[int, int, int]:
        try:
            found = os.stat(self.run / name)
        except FileNotFoundError:
            return 0, 0, 0
        return found.st_ino, found.st_mtime_ns, found.st_size

    def look(self) -> None:
        """Brings everything up to date."""
        steps, temporaries = names(self.run)
        self.saves += len(temporaries - self.temporaries) + len(steps - self.steps)
        self.steps, self.temporaries = steps, temporaries
        self.seen |= steps
        self.touched = self.touched or self._stamp(STATE) != self._state
        if not self.spoke and (size := self.log.stat().st_size if self.log.exists() else 0) != self._said:
            self._said = size
            self.spoke = _FROM.search(self.log.read_text(errors="replace")) is not None
        if (stamp := self._stamp(metrics.FILE)) != self._metrics:
            self.looping = self.looping or (self.spoke and stamp[0] == self._metrics[0] and stamp[2] > self._metrics[2])
            self._metrics = stamp
            self.rows = (self.run / metrics.FILE).read_bytes().count(b"\n")
        self.sealed = (self.run / artifact.MANIFEST).exists()
        self.sealing = (self.run / f"{artifact.MANIFEST}.tmp").exists()

    def phase(self) -> str:
        """Where the command is, as of the last look."""
        if self.sealed or self.sealing or (self.spoke and self.last_step in self.steps):
            return "end"
        if self.temporaries and self.spoke:
            return "save"
        if self.looping:
            return "loop"
        return "compile" if self.spoke else "restore" if self.touched else "imports"


def names(run: Path) -> tuple[set[int], set[str]]:
    """Complete steps, and all else, in a run's directory of checkpoints."""
    try:
        found = os.listdir(run / SUBDIRECTORY)
    except FileNotFoundError:
        return set(), set()
    return {int(name) for name in found if name.isdigit()}, {name for name in found if not name.isdigit()}


def start_of(said: str) -> int | None:
    """The step that a command said it goes on from, 0 for the beginning; None where it did not come so far."""
    found = _FROM.search(said)
    return None if found is None else int(found[1] or 0)


def skipped(said: str) -> bool:
    """Did the command find the run finished?"""
    return _DONE in said
