"""Requests of many callers → batches on the device.

Callers put requests in from any thread and get a future each. One thread takes batches out: after a short wait for
others the oldest request, with those that go with it (equal settings, prompts of a like length), the nearest in length
first. So a batch is as full as it can be, short prompts are not padded to long ones, and nobody waits for ever. An
error belongs to the request that causes it: a batch that fails is asked again row by row.
"""

import dataclasses
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

import jax

from msm_jax.pretrained import Model
from msm_jax.sampler import LONG, Completion, Row, Sampler, Scored, Settings, rounded_up

LINGER = 0.02  # seconds without another request, after which a batch starts that is not full


@dataclasses.dataclass(frozen=True)
class Say:
    """Asks for a completion. `settings` holds the request's own seed and max_tokens; what is drawn depends on seed and
    stream. `top`: one of the sampler's TOPS."""

    prompt: Sequence[int]
    settings: Settings
    stream: int = 0
    top: int = 0

    @property
    def length(self) -> int:
        return len(self.prompt)

    @property
    def kind(self) -> Hashable:
        """Equal for requests that can share a batch."""
        how = self.settings
        nucleus = how.top_p if how.choice == "top_p" else 1.0
        return ("say", how.temperature, nucleus, how.stop_ids, how.stop, rounded_up(how.max_tokens), self.top)


@dataclasses.dataclass(frozen=True)
class Weigh:
    """Asks for the log-probabilities of a continuation's tokens after a prompt, neither empty."""

    prompt: Sequence[int]
    continuation: Sequence[int]
    top: int = 0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.continuation)

    @property
    def kind(self) -> Hashable:
        return ("weigh", rounded_up(len(self.continuation)), self.top)


Request = Say | Weigh
Answer = Completion | Scored


class Device:
    """Computes batches of requests of one kind. The arrays are read at the first."""

    def __init__(self, model: Model, batch: int) -> None:
        self._model, self._batch = model, batch
        self._sampler: Sampler | None = None

    def __call__(self, requests: Sequence[Request]) -> Sequence[Answer]:
        with jax.sharding.set_mesh(self._model.mesh):
            if self._sampler is None:
                self._sampler = Sampler(self._model, self._batch)
            first = requests[0]
            if isinstance(first, Weigh):
                return self._sampler.read([(r.prompt, r.continuation) for r in requests], first.top)  # type: ignore[union-attr]
            rows = [Row(r.prompt, r.settings.max_tokens, r.settings.seed, r.stream) for r in requests]  # type: ignore[union-attr]
            return self._sampler.complete(rows, first.settings, first.top)

    def close(self) -> None:
        """Lets go of the arrays."""
        self._sampler = None


class Batcher:
    """The queue, and the thread that empties it: `compute` gets at most `batch` requests of one kind at a time."""

    def __init__(
        self, compute: Callable[[Sequence[Request]], Sequence[Answer]], batch: int, linger: float = LINGER
    ) -> None:
        self._compute, self._batch, self._linger = compute, batch, linger
        self._waiting: list[tuple[Request, Future[Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._pump, name="batches", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> "Future[Any]":
        """Completion of a Say, Scored of a Weigh. A future that is cancelled in time costs nothing."""
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the model was closed")
            self._waiting.append((request, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finishes the batch at hand; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _pump(self) -> None:
        while batch := self._next():
            self._answer([(request, future) for request, future in batch if future.set_running_or_notify_cancel()])

    def _next(self) -> list[tuple[Request, "Future[Any]"]]:
        """The next batch, as soon as it is full or no more come; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            while len(self._waiting) < self._batch and not self._closed and self._changed.wait(self._linger):
                pass
            chosen = suited([request for request, _ in self._waiting], self._batch)
            batch = [self._waiting[i] for i in chosen]
            self._waiting = [pair for i, pair in enumerate(self._waiting) if i not in chosen]
            return batch

    def _answer(self, batch: list[tuple[Request, "Future[Any]"]]) -> None:
        if not batch:
            return
        try:
            answers = self._compute([request for request, _ in batch])
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for one in batch:
                    self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


def suited(waiting: Sequence[Request], batch: int) -> set[int]:
    """Which to compute together: the first, and those of its kind and of a like length, the nearest first."""
    if not waiting:
        return set()
    oldest = waiting[0]
    alike = [
        i for i, request in enumerate(waiting) if request.kind == oldest.kind and _near(request.length, oldest.length)
    ]
    alike.sort(key=lambda i: abs(rounded_up(waiting[i].length) - rounded_up(oldest.length)))  # stable: 0 stays first
    return set(alike[:batch])


def _near(a: int, b: int) -> bool:
    """Is neither more than twice as long as the other? Short ones all are: decoding costs more than their padding."""
    a, b = max(a, LONG), max(b, LONG)
    return max(a, b) <= 2 * min(a, b)
