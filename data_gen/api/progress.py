"""A line on stderr about requests: how many, how fast, how long still, what they cost, how well the cache does."""

import sys
import time

from data_gen.api.budget import Budget
from data_gen.api.provider import Failure
from data_gen.api.request import Reply
from msm_jax import cli

SECONDS = 10.0  # between lines; half a second on a terminal


class Progress:
    """Call it with each outcome. Stored ones count as done, but not for the rate."""

    def __init__(self, label: str, total: int | None, budget: Budget) -> None:
        self._label, self._total, self._budget = label, total, budget
        self._done = self._new = self._failed = 0
        self._read = self._cacheable = 0
        self._began = self._shown = time.monotonic()
        self._spent = budget.spent

    def __call__(self, outcome: Reply | Failure, new: bool) -> None:
        self._done += 1
        self._new += new
        if isinstance(outcome, Failure):
            self._failed += 1
        else:
            usage = outcome.usage
            self._read += usage.cache_read
            self._cacheable += usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
        now = time.monotonic()
        if now - self._shown >= (0.5 if sys.stderr.isatty() else SECONDS):
            self._shown = now
            self._show("\r", "")

    def end(self) -> None:
        if self._new:
            self._show("\r", "\n")

    def _show(self, start: str, end: str) -> None:
        if sys.stderr.isatty():
            print(start + self.line(), file=sys.stderr, end=end, flush=True)
        else:
            cli.note(self.line())

    def line(self) -> str:
        rate = self._new / max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self._label}: {self._done}" + (f" of {self._total}" if self._total else ""), f"{rate:.3g}/s"]
        if self._total and rate > 0:
            parts.append(f"{max(0, self._total - self._done) / rate:.0f} s left")
        parts.append(f"{self._budget.spent - self._spent:.2f} USD")
        if self._cacheable:
            parts.append(f"{100 * self._read / self._cacheable:.1f} % of cacheable input from the cache")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)
