"""The one way in which this project asks language models: what is stored is not asked, what is asked is in the ledger,
what it may cost is within the cap.

    async with Client(provider, store, prices, budget) as client:
        reply = await client.ask(request)
        async for outcome in client.ask_all(requests):
            ...
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, Iterable, Iterator

from data_gen.api.batches import Batches, BatchSettings
from data_gen.api.budget import Budget
from data_gen.api.limits import Limits
from data_gen.api.prices import Prices
from data_gen.api.progress import Progress
from data_gen.api.provider import Declined, Failure, Lost, Provider
from data_gen.api.request import Reply, Request
from data_gen.api.retry import OF_THE_ACCOUNT, Backoff, explained
from data_gen.api.store import End, Outcome, Store
from msm_jax.cli import UserError

CACHE_SECONDS = 3300.0  # after which a cached prompt is taken for forgotten: its hour, less a margin
REFUSED_IN_ROW = 20  # requests declined as such, with no answer between: then it is not the requests
OVERLOADED = (429, 529)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """concurrency: requests in flight, at most. tries, first_wait: of a request; seconds before the second try.
    leave_seconds: that requests in flight are awaited for when the process ends early. batch_rounds: of batches, until
    what fails in them is given up."""

    concurrency: int = 64
    tries: int = 10
    first_wait: float = 0.5
    leave_seconds: float = 60.0
    batch_rounds: int = 3
    batches: BatchSettings = dataclasses.field(default_factory=BatchSettings)


class Stopped(Exception):  # noqa: N818
    """Not sent, since the work ends early."""


class Client:
    """Asks a provider, once a key.

    Outcomes: a Reply, stored; a request declined as such (too long, say) raises Declined from `ask` and is a Failure
    from `ask_all`; everything else ends the work. It ends so that nothing new is sent, what is in flight is awaited for
    `leave_seconds` and stored, and what is still in flight then is `unknown` in the ledger.
    """

    def __init__(
        self, provider: Provider, store: Store, prices: Prices, budget: Budget, settings: Settings = Settings()
    ) -> None:
        if settings.concurrency < 1 or settings.tries < 1:
            raise UserError("config.api: concurrency and tries must be at least 1")
        self.provider, self.store, self.prices, self.budget = provider, store, prices, budget
        self.limits = Limits(settings.concurrency)
        self._settings = settings
        self._batches = Batches(provider.batches, store, prices, budget, settings.batches) if provider.batches else None
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._scope = _Scope()  # of single questions
        self._scopes = {self._scope}
        self._warm: dict[tuple[str, str, str], _Warmth] = {}
        self._answers = self._refused_in_row = 0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Sends nothing new, waits for what is in flight, and lets go of the provider; the store stays open."""
        for scope in self._scopes:
            scope.stop.set()
        await self._leave(set(self._asking.values()))
        if self._batches:
            await self._batches.close()
        await self.provider.close()

    async def ask(self, request: Request) -> Reply:
        """The stored reply, or a new one. Two that ask under one key at once share an attempt, and who stops waiting
        does not stop it.

        Raises:
          Declined: the request as such. UserError (CapReached included): nothing can be asked until somebody mends
          something. Unavailable: the provider failed too often.
        """
        return self.store.answer(request.key) or await self._asked(request, self._scope)

    async def ask_all(
        self, requests: Iterable[Request], batch: bool = False, total: int | None = None, label: str = "requests"
    ) -> AsyncGenerator[Reply | Failure, None]:
        """The outcomes, in the order in which they come. `requests` is consumed as they are sent, not before.

        In batches, what failed but may succeed on another try is asked again where `requests` can be gone through again
        (a list, or an object with __iter__; not a generator). total, label: for the line of progress.

        Raises:
          UserError: the provider has no batches. Else what `ask` raises, but for Declined.
        """
        progress = Progress(label, total, self.budget)
        outcomes = self._batched(requests) if batch else self._direct(requests)
        try:
            async for outcome, new in outcomes:
                progress(outcome, new)
                yield outcome
        finally:
            await outcomes.aclose()
        progress.end()

    # In batches

    async def _batched(self, requests: Iterable[Request]) -> AsyncGenerator[tuple[Reply | Failure, bool], None]:
        if not self._batches:
            raise UserError(f"config.api.batch: {self.provider.name} has no batches; set it to False")
        rounds = 1 if iter(requests) is requests else self._settings.batch_rounds
        chosen: Iterable[Request] = requests
        for left in reversed(range(rounds)):
            failed: set[str] = set()
            outcomes = self._batches.run(chosen)
            try:
                async for outcome, new in outcomes:
                    if left and isinstance(outcome, Failure) and outcome.again:
                        failed.add(outcome.key)
                    else:
                        yield outcome, new
            finally:
                await outcomes.aclose()
            if not failed:
                return
            chosen = _those(requests, failed)

    # One by one

    async def _direct(self, requests: Iterable[Request]) -> AsyncGenerator[tuple[Reply | Failure, bool], None]:
        """Workers take from `requests` in turn, and hand on through a short queue."""
        scope, todo = _Scope(), iter(requests)
        out: asyncio.Queue[tuple[Reply | Failure, bool] | Exception | None] = asyncio.Queue(self._settings.concurrency)

        async def work() -> None:
            for request in todo:
                if reply := self.store.answer(request.key):
                    await out.put((reply, False))
                    continue
                outcome: Reply | Failure
                try:
                    outcome = await self._asked(request, scope)
                except Declined as error:
                    outcome = Failure(request.key, error.kind, error.message)
                await out.put((outcome, True))
                if scope.stop.is_set():
                    return

        async def attend() -> None:
            try:
                await asyncio.gather(*workers)
            except Exception as error:
                scope.stop.set()
                await out.put(error)
            else:
                await out.put(None)

        self._scopes.add(scope)
        workers = [asyncio.create_task(work()) for _ in range(self._settings.concurrency)]
        attending = asyncio.create_task(attend())
        try:
            while item := await out.get():
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            scope.stop.set()
            self._scopes.discard(scope)
            for task in (attending, *workers):
                task.cancel()
            await asyncio.wait((attending, *workers))
            await self._leave(scope.tasks)

    async def _leave(self, tasks: set[asyncio.Task[Reply]]) -> None:
        """Waits for questions in flight, and gives up on those that take too long."""
        tasks = set(tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.leave_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _asked(self, request: Request, scope: "_Scope") -> Reply:
        """The reply of the task that asks under this key, which goes on where who waits for it does not."""
        task = self._asking.get(request.key)
        if task is None:
            task = self._asking[request.key] = asyncio.create_task(self._warmed(request, scope.stop))
            scope.tasks.add(task)

            def over(done: asyncio.Task[Reply]) -> None:
                del self._asking[request.key]
                scope.tasks.discard(done)
                _ = done.cancelled() or done.exception()  # perhaps nobody waits to be told

            task.add_done_callback(over)
        return await asyncio.shield(task)

    async def _warmed(self, request: Request, stop: asyncio.Event) -> Reply:
        """The first request with a prompt that the provider caches goes alone, the others after its answer."""
        if self._batches and self.store.in_batch(request.key):  # paid for already, by a process that asked in batches
            await self._batches.settle()
            if reply := self.store.answer(request.key):
                return reply
        if not self.provider.caches(request):
            return await self._tried(request, stop)
        prompt = (request.model, request.system, json.dumps(request.schema))
        warmth = self._warm.setdefault(prompt, _Warmth())
        if not warmth.is_warm():
            async with warmth.first:
                if not warmth.is_warm():
                    reply = await self._tried(request, stop)
                    warmth.used()
                    return reply
        reply = await self._tried(request, stop)
        warmth.used()
        return reply

    async def _tried(self, request: Request, stop: asyncio.Event) -> Reply:
        who = f"{self.provider.name} ({request.stage}, {request.key})"
        backoff = Backoff(self._settings.tries, self._settings.first_wait)
        while True:
            try:
                reply = await self._attempt(request, stop)
                self._answers += 1
                self._refused_in_row = 0
                return reply
            except (Declined, Lost) as error:
                if isinstance(error, Declined) and error.fatal:
                    self._refused(error, request, who)
                    raise
                wait = backoff.after(error, who)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)

    def _refused(self, error: Declined, request: Request, who: str) -> None:
        """Raises UserError where it is not this request that is at fault: the account is, or all requests are."""
        self._refused_in_row += 1
        answers = self._answers or next(self.store.answered(request.stage), None)
        if error.status in OF_THE_ACCOUNT or not answers or self._refused_in_row >= REFUSED_IN_ROW:
            raise explained(error, who) from None

    async def _attempt(self, request: Request, stop: asyncio.Event) -> Reply:
        """One attempt, from its row in the ledger to the answer in the store."""
        model = self.provider.price_as or request.model
        worst = self.prices.worst_case(request, model=model)
        await self.limits.enter()
        try:
            await self.budget.reserve(worst)
            spent = unknown = 0.0
            try:
                if stop.is_set():
                    raise Stopped
                attempt = await self.store.sent(request, worst)
                unknown = worst  # until something else is known
                end = End(attempt, Outcome.UNKNOWN, error="cancelled")
                try:
                    reply = await self.provider.ask(request, attempt, self.limits.heard)
                    reply = dataclasses.replace(reply, cost=self.prices.price(model, reply.usage))
                    end, spent, unknown = End(attempt, Outcome.ANSWERED, reply), reply.cost, 0.0
                    self.limits.succeeded(reply.usage)
                except Declined as error:
                    end, unknown = End(attempt, Outcome.REFUSED, None, error.status, error.kind), 0.0
                    if error.status in OVERLOADED:
                        self.limits.overloaded(error.retry_after)
                    raise
                except Lost:
                    end = End(attempt, Outcome.UNKNOWN, error="lost")
                    raise
                finally:
                    written = self.store.end(end)  # handed over, even where the waiting for it is cancelled
                    await written
                return reply
            finally:
                self.budget.settle(worst, spent, unknown)
        finally:
            self.limits.leave()


def _those(requests: Iterable[Request], keys: set[str]) -> Iterator[Request]:
    return (request for request in requests if request.key in keys)


class _Scope:
    """Questions that end together."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.tasks: set[asyncio.Task[Reply]] = set()


class _Warmth:
    """Whether a prompt is in the provider's cache; `first` is held by who brings it there."""

    def __init__(self) -> None:
        self.first = asyncio.Lock()
        self._until = 0.0

    def is_warm(self) -> bool:
        return time.monotonic() < self._until

    def used(self) -> None:
        self._until = time.monotonic() + CACHE_SECONDS
