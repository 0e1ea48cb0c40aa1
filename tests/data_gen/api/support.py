"""A provider in memory that does as it is told, and clients that never wait long."""

import asyncio
import collections
import dataclasses
import hashlib
import time

from data_gen.api.batches import BatchSettings
from data_gen.api.budget import Budget
from data_gen.api.client import Client, Settings
from data_gen.api.prices import Prices
from data_gen.api.provider import BatchResult, BatchState, Declined, Failure, Lost
from data_gen.api.request import Reply, Request, Stop, Usage
from data_gen.api.store import Store

MODEL = "claude-haiku-5-5"
SPEC = "Whoever reads this sentence knows what the spec is about. " * 60
QUICK = BatchSettings(poll_seconds=0.02, settle_seconds=0.2, first_wait=0.01)
SETTINGS = Settings(concurrency=8, first_wait=0.01, leave_seconds=2.0, batches=QUICK)


def asking(i, stage="documents", **changes):
    user = f"Write document {i} of stage {stage}."
    key = hashlib.sha256(user.encode()).hexdigest()[:32]
    return dataclasses.replace(Request(key, stage, MODEL, SPEC, user, 1000), **changes)


def many(count, stage="documents"):
    return [asking(i, stage) for i in range(count)]


class Fake:
    """A provider. `told` holds what befalls the next questions: an exception, or None for an answer; `bills` the keys
    that it answered, each time. Its batches end when `polls` questions about them were asked."""

    name, price_as = "fake", ""

    def __init__(self, *told, seconds=0.0, cached=False):
        self.told, self.seconds, self.cached = collections.deque(told), seconds, cached
        self.bills, self.busy, self.peak = [], 0, 0
        self.usage = Usage(input=100, output=50)
        self.batches = self
        self.made, self.polls, self.outcomes, self.cancelled = {}, 1, {}, set()
        self.told_create = collections.deque()
        self.billed = set()  # the batches' results that are among the bills: to fetch them twice costs nothing

    async def close(self):
        pass

    def caches(self, request):
        return self.cached

    async def ask(self, request, attempt, heard=None):
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            await asyncio.sleep(self.seconds)
            error = self.told.popleft() if self.told else None
            if error is None or isinstance(error, Lost):
                self.bills.append(request.key)
            if error:
                raise error
            return Reply(request.key, f"to {request.user}", Stop.END, request.model, self.usage, f"req_{attempt}")
        finally:
            self.busy -= 1

    # Batches: {id: [BatchState, keys, times looked at]}

    def encoded_bytes(self, request):
        return 1000

    async def create(self, requests, batch):
        error = self.told_create.popleft() if self.told_create else None
        if isinstance(error, Declined):
            raise error
        id_ = f"batch_{len(self.made)}"
        self.made[id_] = [BatchState(id_, time.time(), False), [r.key for r in requests], 0]
        if error:
            raise error
        return id_

    async def status(self, batch):
        made = self.made[batch]
        made[2] += 1
        if batch in self.cancelled or made[2] >= self.polls:
            made[0] = dataclasses.replace(made[0], ended=True, count=len(made[1]))
        return made[0]

    async def results(self, batch):
        for key in reversed(self.made[batch][1]):
            kind = self.outcomes.pop(key, None) or ("canceled" if batch in self.cancelled else "")
            if kind:
                yield BatchResult(key, Failure(key, kind, again=kind != "invalid_request_error"))
            else:
                if (batch, key) not in self.billed:
                    self.billed.add((batch, key))
                    self.bills.append(key)
                yield BatchResult(key, Reply(key, "in batch", Stop.END, MODEL, self.usage, f"msg_{key}", batch))

    async def cancel(self, batch):
        self.cancelled.add(batch)

    async def created_since(self, when):
        for made in reversed(self.made.values()):
            if made[0].created_at >= when:
                yield made[0]


class Work:
    """A store in a directory, and clients on it."""

    def __init__(self, directory, cap=100.0):
        self.path, self.cap = directory / "store.sqlite", cap

    def run(self, provider, use, settings=SETTINGS):
        """use(client), an async function, in a process's worth of store and client; returns (its result, ledger)."""

        async def main():
            with Store(self.path) as store:
                self.budget = Budget(self.cap, store)
                try:
                    async with Client(provider, store, Prices(), self.budget, settings) as client:
                        return await use(client)
                finally:
                    self.ledger = list(store.ledger())

        return asyncio.run(main())

    def ask_all(self, provider, requests, settings=SETTINGS, **how):
        async def use(client):
            return [outcome async for outcome in client.ask_all(requests, **how)]

        return self.run(provider, use, settings)

    def outcomes(self):
        return collections.Counter(row["outcome"] for row in self.ledger)
