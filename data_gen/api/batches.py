"""Requests by the thousand in message batches, of which none is paid twice and none is left unwatched.

A batch is entered in the store, with its members, before it is created, and its id after. A batch that was to be
created and whose id nobody wrote down is looked for among the provider's: if its results carry our keys it is ours.
Progress is judged by the batch's status alone, for its counts stay 0 until the end. What was not answered in
`max_hours` is cancelled, and what was answered until then is kept.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from data_gen.api.budget import Budget
from data_gen.api.prices import Prices
from data_gen.api.provider import BatchProvider, BatchResult, BatchState, Declined, Failure, Lost
from data_gen.api.request import Reply, Request
from data_gen.api.retry import Backoff, explained
from data_gen.api.store import Batch, BatchStatus, End, Member, Outcome, Store
from msm_jax.cli import note

CLOCKS_APART = 300.0  # seconds between our clock and the provider's, at most
PATIENCE = 30.0  # seconds for the provider's list of batches, before one that may be ours is waited for later
CHUNK = 200  # results that are stored and handed on together
_LEFT = (BatchStatus.INTENT, BatchStatus.OPEN, BatchStatus.CANCELING)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class BatchSettings:
    """max_requests and max_bytes: of one batch. open_at_once: batches. max_hours: from a batch's creation to its
    cancellation. settle_seconds: how long a batch may take to appear in the provider's list. tries, first_wait: of each
    question about a batch, in seconds."""

    max_requests: int = 10_000
    max_bytes: int = 32 << 20
    open_at_once: int = 100
    poll_seconds: float = 30.0
    max_hours: float = 24.0
    settle_seconds: float = 60.0
    tries: int = 10
    first_wait: float = 0.5


class _Run:
    """One call of `run`: the keys that it waits for, and what it is to hand on."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.out: asyncio.Queue[tuple[Reply | Failure | Exception | None, bool]] = asyncio.Queue(2 * CHUNK)


class Batches:
    """The batches of a store. Keys within a provider are unique, and are the batches' custom ids."""

    def __init__(
        self, provider: BatchProvider, store: Store, prices: Prices, budget: Budget, settings: BatchSettings
    ) -> None:
        self._provider, self._store, self._prices, self._budget = provider, store, prices, budget
        self._settings = settings
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._runs: list[_Run] = []
        self._creating = asyncio.Lock()  # one batch's body is in memory at a time
        self._room = asyncio.Semaphore(settings.open_at_once)

    async def run(self, requests: Iterable[Request]) -> AsyncGenerator[tuple[Reply | Failure, bool], None]:
        """Outcomes in the order in which they come, and whether each is new or was in the store. A key counts once.

        Raises:
          CapReached, UserError, Unavailable: batches that are open stay so, and the next run finds them.
        """
        run = _Run()
        self._runs.append(run)
        feeding = asyncio.create_task(self._feed(run, requests))
        fed = False
        try:
            while not (fed and not run.waiting and run.out.empty()):
                item, new = await run.out.get()
                if item is None:
                    fed = True
                elif isinstance(item, Exception):
                    raise item
                else:
                    run.waiting.discard(item.key)
                    yield item, new
        finally:
            self._runs.remove(run)
            run.waiting.clear()
            feeding.cancel()
            while not run.out.empty():  # a watcher may wait for room there
                run.out.get_nowait()
            await asyncio.wait([feeding])

    async def settle(self) -> None:
        """Waits for every batch that is open, also those of an earlier process."""
        self._attach()
        while tasks := list(self._watching.values()):
            await asyncio.gather(*tasks)

    async def close(self) -> None:
        """Stops watching. What is open goes on at the provider, and the next process finds it."""
        tasks = list(self._watching.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if left := sum(batch.status in _LEFT for batch in self._store.batches()):
            note(f"{left} batches go on at the provider; the same command fetches what they answer")

    def _attach(self) -> list[asyncio.Task[None]]:
        """Watches the batches that an earlier process, or an earlier run that failed, left; returns the new watchers of
        those whose id is not known."""
        unknown = []
        for batch in self._store.batches():
            if batch.status in _LEFT and batch.id not in self._watching:
                worst = sum(member.worst for member in self._store.members(batch).values())
                watcher = self._start(batch, self._follow(batch, worst))
                if batch.status == BatchStatus.INTENT:
                    unknown.append(watcher)
        return unknown

    # Sending

    async def _feed(self, run: _Run, requests: Iterable[Request]) -> None:
        chunk: list[tuple[Request, float]] = []
        try:
            if looking := self._attach():  # a batch that was never created is soon known as such
                await asyncio.wait(looking, timeout=self._settings.settle_seconds + PATIENCE)
            size, seen = 0, set()
            for request in requests:
                if request.key in seen:
                    continue
                seen.add(request.key)
                if self._store.in_batch(request.key):  # asked before the answer, which may come in between
                    run.waiting.add(request.key)
                    continue
                if reply := self._store.answer(request.key):
                    await run.out.put((reply, False))
                    continue
                worst = self._prices.worst_case(request, batch=True)
                bytes_ = self._provider.encoded_bytes(request)
                full = len(chunk) >= self._settings.max_requests or size + bytes_ > self._settings.max_bytes
                if chunk and (full or not self._budget.fits(worst)):
                    await self._submit(run, chunk)
                    size = 0
                await self._budget.reserve(worst)
                chunk.append((request, worst))
                size += bytes_
            if chunk:
                await self._submit(run, chunk)
            await run.out.put((None, False))
        except Exception as error:
            await run.out.put((error, False))
        finally:
            for _, worst in chunk:
                self._budget.settle(worst)

    async def _submit(self, run: _Run, chunk: list[tuple[Request, float]]) -> None:
        """Empties the chunk into a new batch; returns once it is created."""
        await self._room.acquire()
        batch, written = self._store.intend(chunk)
        requests, worst = [request for request, _ in chunk], sum(usd for _, usd in chunk)
        run.waiting.update(request.key for request in requests)
        created: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def carry() -> None:
            nonlocal requests
            try:
                await written
                made = await self._create(batch, requests, worst)
                requests = []  # they are the provider's now
                created.set_result(None)
                await self._follow(made, worst)
            finally:
                if not created.done():
                    created.cancel()
                self._room.release()

        self._start(batch, carry())
        for _ in chunk:  # from now on they are the batch's
            self._budget.let_go()
        chunk.clear()
        await asyncio.wait([created])

    async def _create(self, batch: Batch, requests: list[Request], worst: float) -> Batch:
        """The batch with its id. Where it is not known whether it was created, it is looked for before another try."""
        backoff = Backoff(self._settings.tries, self._settings.first_wait)
        while True:
            sent_at = time.time()
            try:
                async with self._creating:
                    return await self._store.created(batch, await self._provider.create(requests, batch.id))
            except (Declined, Lost) as error:
                sure = isinstance(error, Declined) and (error.status < 500 or error.status == 529)
                if not sure:
                    batch = dataclasses.replace(batch, created_at=sent_at)
                    if found := await self._find(batch):
                        return await self._store.created(batch, found)
                try:
                    if isinstance(error, Declined) and error.fatal:
                        raise explained(error, "the batch interface") from None
                    wait = backoff.after(error, "the batch interface")
                except Exception:
                    await self._never_created(batch, worst, error)
                    raise
            await asyncio.sleep(wait)

    async def _never_created(self, batch: Batch, worst: float, error: Declined | Lost | None = None) -> None:
        members = self._store.members(batch)
        status, kind = (error.status, error.kind) if isinstance(error, Declined) else (0, "not_created")
        ends = [End(member.attempt, Outcome.REFUSED, None, status, kind) for member in members.values()]
        await self._store.mark(batch, BatchStatus.REFUSED, *ends)
        self._budget.move(worst)
        await self._hand_on(Failure(key, "not_created", again=True) for key in members)

    async def _find(self, batch: Batch) -> str | None:
        """The provider's id of a batch that was perhaps created; None where it was not."""
        mine = self._store.members(batch)
        foreign = {other.provider_id for other in self._store.batches()}
        while True:
            young = time.time() - batch.created_at < self._settings.settle_seconds
            for state in await self._calmly(lambda: self._listed(batch.created_at - CLOCKS_APART)):
                if state.id in foreign or state.count not in (0, batch.members):
                    continue
                await self._ended(state.id)  # its counts, and whose it is, show only then
                if await self._calmly(lambda id_=state.id: self._first(id_)) in mine:  # type: ignore[misc]
                    return state.id
                foreign.add(state.id)
            if not young:
                return None
            await asyncio.sleep(min(self._settings.poll_seconds, self._settings.settle_seconds / 4))

    async def _listed(self, since: float) -> list[BatchState]:
        return [state async for state in self._provider.created_since(since)]

    async def _first(self, batch: str) -> str:
        async for result in self._provider.results(batch):
            return result.key
        return ""

    # Watching

    def _start(self, batch: Batch, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def watched() -> None:
            try:
                await work
            except Exception as error:
                for run in list(self._runs):
                    await run.out.put((error, False))
                raise
            finally:
                del self._watching[batch.id]
                self._budget.let_go()

        self._budget.hold()
        task = self._watching[batch.id] = asyncio.create_task(watched())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told above
        return task

    async def _follow(self, batch: Batch, worst: float) -> None:
        if not batch.provider_id:
            found = await self._find(batch)
            if found is None:
                await self._never_created(batch, worst)
                return
            batch = await self._store.created(batch, found)

        async def late() -> None:
            if batch.status != BatchStatus.CANCELING:
                note(f"batch {batch.provider_id}: not done in {self._settings.max_hours:g} hours, cancelled")
                await self._store.mark(batch, BatchStatus.CANCELING)
            await self._calmly(lambda: self._provider.cancel(batch.provider_id))

        await self._ended(batch.provider_id, batch.created_at + 3600 * self._settings.max_hours, late)
        await self._collect(batch, worst)

    async def _ended(
        self, provider_id: str, deadline: float = math.inf, late: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Waits until a batch has ended; does `late`, once, when the deadline has passed before."""
        while not (await self._calmly(lambda: self._provider.status(provider_id))).ended:
            if late and time.time() > deadline:
                await late()
                late = None
            await asyncio.sleep(self._settings.poll_seconds)

    async def _collect(self, batch: Batch, worst: float) -> None:
        """Stores what a batch that has ended brought, chunk by chunk, and hands it on."""
        backoff = Backoff(self._settings.tries, self._settings.first_wait)
        while True:
            members = self._store.members(batch)
            chunk: list[tuple[Member, BatchResult]] = []
            try:
                async for result in self._provider.results(batch.provider_id):
                    if member := members.pop(result.key, None):
                        chunk.append((member, result))
                    if len(chunk) >= CHUNK:
                        worst -= await self._keep(chunk)
                        chunk = []
                break
            except (Declined, Lost) as error:  # what came is kept, and the rest is fetched again
                worst -= await self._keep(chunk)
                if isinstance(error, Declined) and error.fatal:
                    raise explained(error, f"batch {batch.provider_id}") from None
                wait = backoff.after(error, f"batch {batch.provider_id}")
            await asyncio.sleep(wait)
        lost = list(members.values())
        worst -= await self._keep(chunk, batch, lost)
        self._budget.move(worst, unknown=sum(member.worst for member in lost))
        await self._hand_on(Failure(member.key, "no_result", again=True) for member in lost)

    async def _keep(
        self, chunk: list[tuple[Member, BatchResult]], ended: Batch | None = None, lost: Iterable[Member] = ()
    ) -> float:
        """Stores results, the last ones with the batch's end and the members without one, and hands them on; returns
        what was reserved for them."""
        ends, outcomes, spent = [], [], 0.0
        for member, result in chunk:
            outcome = result.outcome
            if isinstance(outcome, Reply):
                cost = self._prices.price(member.model, outcome.usage, batch=True)
                outcome = dataclasses.replace(outcome, cost=cost)
                spent += cost
                ends.append(End(member.attempt, Outcome.ANSWERED, outcome))
            else:
                ends.append(End(member.attempt, Outcome.REFUSED, None, 0, outcome.kind))
            outcomes.append(outcome)
        ends += [End(member.attempt, Outcome.UNKNOWN, None, 0, "no_result") for member in lost]
        if ended:
            await self._store.mark(ended, BatchStatus.ENDED, *ends)
        elif ends:
            await self._store.end(*ends)
        reserved = sum(member.worst for member, _ in chunk)
        self._budget.move(reserved, spent)
        await self._hand_on(outcomes)
        return reserved

    async def _hand_on(self, outcomes: Iterable[Reply | Failure]) -> None:
        for outcome in outcomes:
            for run in list(self._runs):
                if outcome.key in run.waiting:
                    await run.out.put((outcome, True))

    async def _calmly(self, verb: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer.

        Raises:
          UserError: it is declined for good. Unavailable: there was none for too long.
        """
        backoff = Backoff(self._settings.tries, self._settings.first_wait)
        while True:
            try:
                return await verb()
            except (Declined, Lost) as error:
                if isinstance(error, Declined) and error.fatal:
                    raise explained(error, "the batch interface") from None
                wait = backoff.after(error, "the batch interface")
            await asyncio.sleep(wait)
