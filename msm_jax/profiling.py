"""A window of updates traced by JAX's profiler, on every host, for TensorBoard or xprof."""

import tempfile
from typing import Any

import jax
from etils import epath

from msm_jax import storage

DIRECTORY = "profile"


class Profile:
    """Call before() and after() around every update; updates [first, first + steps) are traced."""

    def __init__(self, run: epath.Path, first: int, steps: int) -> None:
        self._place, self._first, self._last = run / DIRECTORY, first, first + steps - 1
        self._directory = ""  # where the trace is written, while there is one: on this machine

    def before(self, step: int) -> None:
        if step == self._first <= self._last:
            remote = storage.is_remote(self._place)
            self._directory = tempfile.mkdtemp(prefix="msm_jax_profile_") if remote else str(self._place)
            jax.profiler.start_trace(self._directory)

    def after(self, step: int, results: Any) -> None:
        """`results`: of the update, which must be done before the trace may end."""
        if self._directory and step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace, or one that the run was too short for."""
        if self._directory:
            jax.profiler.stop_trace()
            if storage.is_remote(self._place):
                for name in storage.files(self._directory):
                    storage.copy(f"{self._directory}/{name}", self._place / name)
            self._directory = ""
