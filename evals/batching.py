"""Requests of many callers → batches on the device.

Callers put requests in from any thread and get a future each. One thread takes batches out: after a short wait for
others the oldest request, with those that go with it (equal settings, prompts of a like length), the nearest in length
first. Where rows of a batch have ended, others that fit take their places, as long as the oldest that waits is one of
them. So a batch is as full as it can be, short prompts are not padded to long ones, and nobody waits for ever. An error
belongs to the request that causes it: what a failed batch left is asked again one by one.
"""

import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax

from msm_jax.pretrained import Model
from msm_jax.sampler import Completion, Fits, Row, Sampler, Scored, Settings, power_of_two, rounded_up

LINGER = 0.02  # seconds without another request, after which a batch starts that is not full
SHORT = 256  # tokens of a prompt up to which its padding costs less than decoding


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
        return ("say", how.temperature, nucleus, how.stop_ids, how.stop, power_of_two(how.max_tokens), self.top)


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
        return ("weigh", power_of_two(len(self.continuation)), self.top)


Request = Say | Weigh
Answer = Completion | Scored
More = Callable[[int, Callable[[Request], bool]], Sequence[Request]]
Compute = Callable[[Sequence[Request], More], Iterator[tuple[int, Answer]]]
"""Computes a batch of one kind: (number, answer) as they are done, also of requests that it asks for meanwhile; they
are numbered in the order they came."""


class Device:
    """A model's Compute. The arrays are read at the first request."""

    def __init__(self, model: Model, batch: int) -> None:
        self._model, self._batch = model, batch
        self._sampler: Sampler | None = None

    def __call__(self, requests: Sequence[Request], more: More) -> Iterator[tuple[int, Answer]]:
        with jax.sharding.set_mesh(self._model.mesh):
            if self._sampler is None:
                self._sampler = Sampler(self._model, self._batch)
            first = requests[0]
            if isinstance(first, Weigh):
                yield from enumerate(self._sampler.read([_pair(request) for request in requests], first.top))
                return

            def further(count: int, fits: Fits) -> list[Row]:
                return [_row(request) for request in more(count, lambda request: fits(_row(request)))]

            yield from self._sampler.stream([_row(r) for r in requests], first.settings, first.top, further)

    def close(self) -> None:
        """Lets go of the arrays."""
        self._sampler = None


def _row(request: Request) -> Row:
    assert isinstance(request, Say)
    return Row(request.prompt, request.settings.max_tokens, request.settings.seed, request.stream)


def _pair(request: Request) -> tuple[Sequence[int], Sequence[int]]:
    assert isinstance(request, Weigh)
    return request.prompt, request.continuation


Asked = tuple[Request, Future[Any]]


class Batcher:
    """The queue, and the thread that empties it: `compute` gets at most `batch` requests of one kind at a time."""

    def __init__(self, compute: Compute, batch: int, linger: float = LINGER) -> None:
        self._compute, self._batch, self._linger = compute, batch, linger
        self._waiting: list[Asked] = []
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
            self._answer(_running(batch), self._further)

    def _next(self) -> list[Asked]:
        """The next batch, as soon as it is full or no more come; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            while len(self._waiting) < self._batch and not self._closed and self._changed.wait(self._linger):
                pass
            return self._taken(suited([request for request, _ in self._waiting], self._batch))

    def _further(self, kind: Hashable, count: int, fits: Callable[[Request], bool]) -> list[Asked]:
        """Some for the batch at hand, while the oldest that waits can join it."""
        with self._changed:
            waiting = [request for request, _ in self._waiting]
            if not waiting or waiting[0].kind != kind or not fits(waiting[0]):
                return []
            return _running(self._taken({i for i in suited(waiting, count) if fits(waiting[i])}))

    def _taken(self, chosen: set[int]) -> list[Asked]:
        batch = [self._waiting[i] for i in sorted(chosen)]
        self._waiting = [asked for i, asked in enumerate(self._waiting) if i not in chosen]
        return batch

    def _answer(self, batch: list[Asked], further: Callable[..., list[Asked]]) -> None:
        """`further`: where others for this batch come from."""
        if not batch:
            return
        asked, done = list(batch), set()

        def more(count: int, fits: Callable[[Request], bool]) -> list[Request]:
            new = further(batch[0][0].kind, count, fits)
            asked.extend(new)
            return [request for request, _ in new]

        try:
            for number, answer in self._compute([request for request, _ in batch], more):
                done.add(number)
                asked[number][1].set_result(answer)
        except BaseException as error:
            if len(asked) == 1:
                asked[0][1].set_exception(error)
                return
            for number, one in enumerate(asked):
                if number not in done:
                    self._answer([one], lambda *_: [])


def _running(batch: list[Asked]) -> list[Asked]:
    """Without those that were cancelled."""
    return [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]


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
    a, b = max(a, SHORT), max(b, SHORT)
    return max(a, b) <= 2 * min(a, b)
