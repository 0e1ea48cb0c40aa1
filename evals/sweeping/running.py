"""One model, one task: evaluated, gone on with, or found done.

Every pair has a log directory of its own, which Inspect's eval_set owns: a log that a killed process left is
recovered, its samples are kept and only the others are run. Judges' answers are in Inspect's cache of generations, so
what was in flight when the process died is, of all, asked at most once more.
"""

import asyncio
import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

from inspect_ai import eval_set
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log, read_eval_log_sample_summaries
from inspect_ai.model import Model

from evals import judging
from evals.sweeping.targets import Target
from evals.sweeping.tasks import Spec, plain
from msm_jax import cli

CACHE = "INSPECT_CACHE_DIR"  # where Inspect keeps generations that ask to be kept
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"  # where JAX, when it is imported, looks for what was compiled before


@dataclasses.dataclass(frozen=True)
class Manner:
    """How pairs are evaluated, the same for all. max_errors: share of samples that may fail. retries: of a whole
    evaluation, by which only its failed samples are asked again. max_tokens: of an answer, where a task allows more."""

    logs: str
    judge: Model | None
    max_connections: int
    max_errors: float
    retries: int
    max_tokens: int = 0

    def directory(self, target: Target, spec: Spec) -> str:
        return f"{self.logs}/{target.directory}/{spec.directory}"


class Counter:
    """Samples done, of all that are wanted, as a line on stderr."""

    def __init__(self, total: int) -> None:
        self._progress = cli.Progress("evaluating", total, "samples")
        self._pair = 0

    def sample(self) -> None:
        self._pair += 1
        self._progress(1)

    def pair(self, samples: int) -> None:
        """A pair is done; those of its samples that were there already have not been heard of."""
        if samples > self._pair:
            self._progress(samples - self._pair)
        self._pair = 0


_listening: Counter | None = None


@hooks("msm_jax_sweep", "Counts the samples of a sweep.")
class _Heard(Hooks):
    def enabled(self) -> bool:
        return _listening is not None

    async def on_sample_end(self, data: SampleEnd) -> None:
        if _listening is not None and data.sample.error is None:  # one that failed may be run again
            _listening.sample()


@contextlib.contextmanager
def heard(counter: Counter) -> Iterator[None]:
    global _listening
    _listening = counter
    try:
        yield
    finally:
        _listening = None


def quietly() -> contextlib.AbstractContextManager[object]:
    """What Inspect tells on stdout is not for there: results are files."""
    return contextlib.redirect_stdout(io.StringIO())


@contextlib.contextmanager
def cached(directory: Path | None) -> Iterator[None]:
    """Judges' answers are kept in this directory, and compiled programs, which all checkpoints of a run share; None:
    where Inspect and JAX keep them for this user."""
    before = {name: os.environ.get(name) for name in (CACHE, PROGRAMS)}
    if directory is not None:
        os.environ[CACHE] = str(directory.absolute())
        os.environ.setdefault(PROGRAMS, str(directory.absolute() / "programs"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_done(directory: str) -> bool:
    """Is there a log of a finished evaluation?"""
    return any(log.status == "success" and not log.invalidated for log in _headers(directory))


def _headers(directory: str) -> list[EvalLog]:
    found = []
    for info in list_eval_logs(directory):
        with contextlib.suppress(Exception):  # one that was cut short is not of a finished evaluation
            found.append(read_eval_log(info, header_only=True))
    return found


def evaluate(target: Target, model: Model, spec: Spec, manner: Manner) -> str:
    """Evaluates one pair, or goes on with it. Returns what went wrong, in a line; "" where nothing did."""
    task = spec.build()
    if manner.max_tokens:
        task.config.max_tokens = min(task.config.max_tokens or manner.max_tokens, manner.max_tokens)
    facts = {"label": spec.label, "arm": target.arm, "seed": target.seed, "checkpoint": target.step}
    try:
        with quietly():
            success, logs = eval_set(
                task,
                log_dir=manner.directory(target, spec),
                model=model,
                model_roles={judging.ROLE: manner.judge} if manner.judge else None,
                metadata=facts,
                epochs=spec.epochs,
                limit=spec.limit,
                fail_on_error=manner.max_errors or True,
                continue_on_fail=True,
                retry_attempts=manner.retries,
                max_connections=manner.max_connections or None,
                display="none",
                log_level="error",
                ctl_server=False,
            )
    except PrerequisiteError as error:
        return plain(error)
    if success:
        return ""
    return "; ".join(sorted({_wrong(log) for log in logs if log.status != "success"}))


def _wrong(log: EvalLog) -> str:
    """Why an evaluation is not finished."""
    message = log.error.message if log.error else ""
    if not message and log.location:
        failed = [sample.error for sample in read_eval_log_sample_summaries(log.location) if sample.error]
        message = f"{len(failed)} samples failed, the first with {failed[0]}" if failed else "no reason given"
    return f"{log.status}: {' '.join(message.split())[:300]}"


def close(model: Model) -> None:
    """Lets go of a model, which may hold a device's memory."""
    asyncio.run(model.api.aclose())
