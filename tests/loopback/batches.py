"""The Message Batches API: in progress, perhaps canceling, ended; then every item has its result.

While a batch is not ended all its items count as processing. Which items of a canceled or expired batch were done is
drawn from their names, so it does not depend on when the cancel came.
Source: platform.claude.com/docs/en/build-with-claude/batch-processing and the API reference.
"""

import asyncio
import dataclasses
import datetime
import json
import random
import time
import zlib
from typing import Any

from tests.loopback import messages, refusals
from tests.loopback.books import Books
from tests.loopback.caching import PromptCache
from tests.loopback.faults import Faults
from tests.loopback.refusals import RefusedError
from tests.loopback.settings import Settings

PATH = "/v1/messages/batches"
STATES = ("processing", "succeeded", "errored", "canceled", "expired")
AT_ONCE = 50  # items answered before others get a turn
ITEM = frozenset({"item"})


@dataclasses.dataclass
class Batch:
    id: str
    created: float
    requests: list[dict[str, Any]]
    version: str  # of the API that it was created with
    orphan: bool
    polls: int = 0
    cancelled: float = 0.0
    ended: float = 0.0
    expires: float = 0.0
    ending: asyncio.Task[None] | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(STATES, 0))
    lines: list[str] = dataclasses.field(default_factory=list)  # the results, a line of JSON each

    def told(self, base: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if self.ended else "canceling" if self.cancelled else "in_progress",
            "request_counts": self.counts,
            "created_at": stamp(self.created),
            "expires_at": stamp(self.expires),
            "ended_at": stamp(self.ended) if self.ended else None,
            "cancel_initiated_at": stamp(self.cancelled) if self.cancelled else None,
            "archived_at": None,
            "results_url": f"{base}{PATH}/{self.id}/results" if self.ended else None,
        }


class Batches:
    def __init__(
        self, settings: Settings, faults: Faults, books: Books, cache: PromptCache, respond: messages.Responder
    ):
        self._settings, self._faults, self._books, self._cache, self._respond = settings, faults, books, cache, respond
        self.all: dict[str, Batch] = {}  # oldest first

    def create(self, requests: list[dict[str, Any]], version: str, name: str, orphan: bool) -> Batch:
        now = time.time()
        batch = Batch(
            f"msgbatch_{name[:24]}", now, requests, version, orphan, expires=now + self._settings.expire_seconds
        )
        batch.counts["processing"] = len(requests)
        self.all[batch.id] = batch
        later = asyncio.get_running_loop().call_later
        later(self._settings.expire_seconds, self._end, batch, True)
        if not self._settings.batch_polls:
            later(self._settings.batch_seconds, self._end, batch)
        return batch

    def find(self, name: str) -> Batch:
        if name not in self.all:
            raise RefusedError(404, f"No message batch with id {name}")
        return self.all[name]

    def look(self, batch: Batch) -> Batch:
        """One poll. The one after settings.batch_polls of them, or after a cancel, begins to end the batch."""
        batch.polls += 1
        due = batch.polls > self._settings.batch_polls > 0
        if due or (self._settings.batch_polls and batch.cancelled):
            self._end(batch)
        return batch

    def cancel(self, batch: Batch) -> Batch:
        if not batch.ended and not batch.cancelled:
            batch.cancelled = time.time()
        return batch

    def page(self, limit: int, before: str, after: str) -> tuple[list[Batch], bool]:
        """Newest first: the `limit` batches that follow `after` in the list, or that go before `before`; and whether
        there are more in that direction."""
        newest = list(self.all.values())[::-1]
        if after:
            newest = newest[newest.index(self.find(after)) + 1 :]
        if before:
            newest = newest[: newest.index(self.find(before))]
            return newest[-limit:], len(newest) > limit
        return newest[:limit], len(newest) > limit

    def _end(self, batch: Batch, expired: bool = False) -> None:
        if batch.ending is None:
            cut = "canceled" if batch.cancelled else "expired" if expired else ""
            batch.ending = asyncio.get_running_loop().create_task(self._answer(batch, cut))

    async def _answer(self, batch: Batch, cut: str) -> None:
        counts = dict.fromkeys(STATES, 0)
        for at, item in enumerate(batch.requests, start=1):
            try:
                result = self._result(item, batch, cut)
            except Exception as error:  # the responder's or ours: the batch ends all the same
                self._books.crashed(error)
                result = {"type": "errored", "error": refusals.body(RefusedError(500, repr(error)), None)}
            counts[result["type"]] += 1
            batch.lines.append(json.dumps({"custom_id": item["custom_id"], "result": result}) + "\n")
            if at % AT_ONCE == 0:
                await asyncio.sleep(0)
        random.Random(batch.id).shuffle(batch.lines)
        batch.counts, batch.requests, batch.ended = counts, [], time.time()

    def _result(self, item: dict[str, Any], batch: Batch, cut: str) -> dict[str, Any]:
        """cut: what became of the half of the items that the batch did not come to."""
        params = item["params"]
        try:
            if params.get("stream"):
                raise RefusedError(400, "stream: not supported in batches")
            refusals.check(params, batch.version)
            asked = messages.read(params)
        except RefusedError as error:
            return {"type": "errored", "error": refusals.body(error, None)}
        if cut and zlib.crc32((batch.id + item["custom_id"]).encode()) % 2:
            return {"type": cut}
        draw = self._faults.draw(asked.traits | ITEM, json.dumps(params, sort_keys=True).encode())
        if draw.kind == "errored":
            return {"type": "errored", "error": refusals.body(RefusedError(500, "Internal server error"), None)}
        if draw.kind in ("expired", "canceled"):
            return {"type": draw.kind}
        now = time.monotonic()
        share = self._cache.look(asked.model, asked.blocks, now)
        made = messages.answer(asked, share, draw, self._respond, "batch")
        self._cache.begin(share, now)
        self._books.bill(made, draw, PATH, custom_id=item["custom_id"], batch=batch.id)
        return {"type": "succeeded", "message": made.message()}


def stamp(seconds: float) -> str:
    return (
        datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )
