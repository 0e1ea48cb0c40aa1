"""A window of updates traced by JAX's profiler, on every host, for TensorBoard or xprof."""

from pathlib import Path
from typing import Any

import jax

DIRECTORY = "profile"


class Profile:
    """Call before() and after() around every update; updates [first, first + steps) are traced."""

    def __init__(self, run: Path, first: int, steps: int) -> None:
        self._directory, self._first, self._last = str(run / DIRECTORY), first, first + steps - 1
        self._running = False

    def before(self, step: int) -> None:
        if step == self._first <= self._last:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """`results`: of the update, which must be done before the trace may end."""
        if self._running and step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that the run was too short for."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
