"""A model provider on the loopback: Messages, streams, token counts, Message Batches, and chat completions.

`python -m tests.loopback.server --port=0 --faults=0.05 --seed=1` prints its URL as its first line; settings.py has
the flags, faults.py the kinds of faults. Its books, batches and cache live as long as the process does.

GET /_books            what was billed (rows from ?since=N on), requests by outcome, faults met, batches
GET /_requests         the last questions and batches asked (--keep of them): path, headers, body
POST /_faults          ["429", {"kind": "drop_after", "match": "text in the body"}]: these first, in this order
"""

import asyncio
import collections
import functools
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from msm_jax.children import die_with_parent
from tests.loopback import chat, messages, refusals, settings
from tests.loopback.batches import PATH as BATCHES
from tests.loopback.batches import Batches
from tests.loopback.books import Books
from tests.loopback.caching import PromptCache
from tests.loopback.faults import Draw, Faults
from tests.loopback.limiter import Limiter
from tests.loopback.messages import Answer, Asked
from tests.loopback.refusals import RefusedError

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
QUESTION, STREAM = frozenset({"question"}), frozenset({"question", "stream"})
CREATE, READ = frozenset({"create"}), frozenset({"read"})
KEPT_BYTES = 2**23
SECRET = ("x-api-key", "authorization")
INJECTED = {
    "429": "Number of requests has exceeded your rate limit",
    "500": "Internal server error",
    "529": "Overloaded",
}


class _DroppedError(Exception):
    """The connection goes: by a reset, or, if something was sent, by a close after it."""

    def __init__(self, kind: str, sent: bool = False) -> None:
        super().__init__(kind)
        self.sent = sent


class Server:
    def __init__(self, chosen: settings.Settings) -> None:
        self.settings = chosen
        self.books, self.faults = Books(), Faults(chosen)
        self.cache, self.limiter = PromptCache(chosen.cache_min), Limiter(chosen.rpm)
        module, _, function = chosen.responder.partition(":")
        self.respond: messages.Responder = getattr(importlib.import_module(module), function)
        self.batches = Batches(chosen, self.faults, self.books, self.cache, self.respond)
        self.slots = asyncio.Semaphore(chosen.concurrency or 10**9)
        self.kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=chosen.keep)
        self.served = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=refusals.BATCH_BYTES + 2**20)
        told = functools.partial(functools.partial, self.answered)
        app.router.add_post(MESSAGES, told(self.message, MESSAGES))
        app.router.add_post(chat.PATH, told(self.chat, chat.PATH))
        app.router.add_post(COUNT, told(self.count, COUNT))
        app.router.add_post(BATCHES, told(self.create, BATCHES))
        app.router.add_get(BATCHES, told(self.list, BATCHES))
        app.router.add_get(BATCHES + "/{id}", told(self.retrieve, BATCHES + "/id"))
        app.router.add_get(BATCHES + "/{id}/results", told(self.results, BATCHES + "/id/results"))
        app.router.add_post(BATCHES + "/{id}/cancel", told(self.cancel, BATCHES + "/id/cancel"))
        app.router.add_get("/_books", self.tell_books)
        app.router.add_get("/_requests", self.tell_requests)
        app.router.add_post("/_faults", self.take_faults)
        app.router.add_route("*", "/{rest:.*}", told(self.nothing, "other"))
        return app

    # -- around every request ------------------------------------------------------------------------------------

    async def answered(self, handler, path: str, request: web.Request) -> web.StreamResponse:
        """Runs a handler; its refusals become the API's errors, and everything is counted by outcome."""
        self.served += 1
        name = f"req_{self.served:024d}"
        try:
            self._authorize(request, path)
            response = await handler(request)
            self.books.count(path, response.status)
        except RefusedError as refused:
            self.books.count(path, refused.status)
            told = chat.error(refused) if path == chat.PATH else refusals.body(refused, name)
            response = self.json(told, refused.status, refused.headers)
        except ConnectionError:  # the client went in the middle of its answer
            self.books.count(path, "gone")
            return web.Response()
        except _DroppedError as dropped:
            self.books.count(path, str(dropped))
            if request.transport is not None:
                (request.transport.close if dropped.sent else request.transport.abort)()
            return web.Response()
        except Exception as error:
            self.books.crashed(error)
            self.books.count(path, 500)
            response = self.json(refusals.body(RefusedError(500, repr(error)), name), 500)
        if not response.prepared:
            response.headers["request-id"] = name
        return response

    def _authorize(self, request: web.Request, path: str) -> None:
        # The anthropic package sends its key as a bearer token from API version 2026-10-21 on; both headers are taken.
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = bearer if path == chat.PATH else request.headers.get("x-api-key") or bearer
        if not key:
            raise RefusedError(401, "x-api-key header is required")
        if self.settings.key and key != self.settings.key:
            raise RefusedError(401, "invalid x-api-key")
        if path != chat.PATH and not _version(request):
            raise RefusedError(400, "anthropic-version: header is required")

    def json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        headers = self.limiter.headers(status == 429) | (headers or {})
        return web.Response(
            body=json.dumps(data).encode(), status=status, content_type="application/json", headers=headers
        )

    def _refuse_at(self, draw: Draw) -> None:
        """The faults before anything is done."""
        if draw.kind == "drop_before":
            raise _DroppedError("drop_before")
        if draw.kind in INJECTED:
            refused = RefusedError(int(draw.kind), INJECTED[draw.kind])
            refused.headers = {"retry-after": f"{self.settings.retry_after:g}"} if draw.kind == "429" else {}
            raise refused

    async def _read(self, request: web.Request, most: int) -> tuple[bytes, Any]:
        """The body, at most so many bytes of it, and what it says."""
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise RefusedError(413, "Request exceeds the maximum size") from error
        if len(raw) > most:
            raise RefusedError(413, "Request exceeds the maximum size")
        try:
            params = json.loads(raw)
        except ValueError as error:
            raise RefusedError(400, f"The request body is not valid JSON: {error}") from error
        if len(raw) < KEPT_BYTES:
            headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in SECRET}
            self.kept.append({"path": request.path, "headers": headers, "body": raw})
        return raw, params

    def _limit(self) -> None:
        if wait := self.limiter.take():
            refused = RefusedError(
                429, f"This request would exceed the rate limit of {self.settings.rpm} requests per minute"
            )
            refused.headers = {"retry-after": str(int(-(-wait // 1)))}
            raise refused

    # -- questions -----------------------------------------------------------------------------------------------

    async def message(self, request: web.Request) -> web.StreamResponse:
        raw, params = await self._read(request, refusals.MESSAGE_BYTES)
        refusals.check(params, _version(request))
        made, draw = await self._ask(request, messages.read(params), raw, params.get("stream", False), MESSAGES)
        if params.get("stream"):
            return await self._stream(request, messages.events(made), draw)
        return await self._whole(request, made.message(), draw)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw, params = await self._read(request, refusals.MESSAGE_BYTES)
        made, draw = await self._ask(request, chat.read(params), raw, params.get("stream", False), chat.PATH)
        if params.get("stream"):
            return await self._stream(request, chat.chunks(made), draw)
        return await self._whole(request, chat.completion(made), draw)

    async def _ask(
        self, request: web.Request, asked: Asked, raw: bytes, stream: bool, path: str
    ) -> tuple[Answer, Draw]:
        self._limit()
        draw = self.faults.draw(asked.traits | (STREAM if stream else QUESTION), raw)
        self._refuse_at(draw)
        async with self.slots:
            self.books.now += 1
            self.books.peak = max(self.books.peak, self.books.now)
            try:
                share = self.cache.look(asked.model, asked.blocks, time.monotonic())
                if self.settings.latency:
                    await asyncio.sleep(draw.latency * self.settings.latency / 1000)
                made = messages.answer(asked, share, draw, self.respond)
                self.cache.begin(share, time.monotonic())
            finally:
                self.books.now -= 1
        self.books.bill(made, draw, path, request=request.headers.get("x-msm-request", ""))
        return made, draw

    async def _whole(self, request: web.Request, data: Any, draw: Draw) -> web.StreamResponse:
        if draw.kind != "drop_after":
            return self.json(data)
        if draw.bits % 2:
            raise _DroppedError("drop_after")
        body = json.dumps(data).encode()
        await self._cut(request, [body[: len(body) // 2]], "application/json", len(body))

    async def _stream(self, request: web.Request, pieces: list[bytes], draw: Draw) -> web.StreamResponse:
        half = pieces[: 1 + draw.bits // 2 % max(1, len(pieces) - 1)]
        if draw.kind == "drop_after":
            if draw.bits % 2:
                raise _DroppedError("drop_after")
            await self._cut(request, half, "text/event-stream")
        if draw.kind == "stream_error":
            pieces = [*half, messages.error_event("overloaded_error", "Overloaded")]
        response = web.StreamResponse(headers=self.limiter.headers() | {"content-type": "text/event-stream"})
        await response.prepare(request)
        if draw.kind == "slow":
            for piece in pieces:
                await response.write(piece)
                await asyncio.sleep(self.settings.slow / 1000)
        else:
            await response.write(b"".join(pieces))
        await response.write_eof()
        return response

    async def _cut(
        self, request: web.Request, pieces: list[bytes], kind: str, length: int | None = None
    ) -> web.StreamResponse:
        """The beginning of a 200, then the connection goes."""
        response = web.StreamResponse(headers=self.limiter.headers() | {"content-type": kind})
        response.content_length = length
        await response.prepare(request)
        await response.write(b"".join(pieces))
        raise _DroppedError("drop_after", sent=True)

    async def count(self, request: web.Request) -> web.StreamResponse:
        raw, params = await self._read(request, refusals.MESSAGE_BYTES)
        refusals.check(params, _version(request), counted=True)
        draw = self.faults.draw(READ, COUNT.encode() + raw)
        self._refuse_at(draw)
        return await self._whole(request, {"input_tokens": messages.count(messages.read(params))}, draw)

    # -- batches -------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        raw, params = await self._read(request, refusals.BATCH_BYTES)
        requests = refusals.check_batch(params)
        self._limit()
        draw = self.faults.draw(CREATE, raw)
        self._refuse_at(draw)
        batch = self.batches.create(requests, _version(request), draw.name, draw.kind == "orphan")
        if draw.kind == "orphan":
            raise _DroppedError("orphan")
        return self.json(batch.told(_base(request)))

    def _looked(self, request: web.Request) -> Draw:
        draw = self.faults.draw(READ, request.path_qs.encode())
        self._refuse_at(draw)
        return draw

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        draw = self._looked(request)
        batch = self.batches.look(self.batches.find(request.match_info["id"]))
        await asyncio.sleep(0)  # a small batch that this poll ends has ended in its answer
        return await self._whole(request, batch.told(_base(request)), draw)

    async def list(self, request: web.Request) -> web.StreamResponse:
        draw = self._looked(request)
        limit = int(given) if (given := request.query.get("limit", "20")).isdecimal() else 0
        before, after = request.query.get("before_id", ""), request.query.get("after_id", "")
        if not 1 <= limit <= 1000 or (before and after):
            raise RefusedError(400, "limit: Input should be from 1 to 1000; before_id and after_id exclude one another")
        page, more = self.batches.page(limit, before, after)
        data = [self.batches.look(batch).told(_base(request)) for batch in page]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return await self._whole(request, {"data": data, "has_more": more, **ends}, draw)

    async def results(self, request: web.Request) -> web.StreamResponse:
        draw = self._looked(request)
        batch = self.batches.find(request.match_info["id"])
        if not batch.ended:
            raise RefusedError(404, f"results of {batch.id} are not available before it has ended")
        body = "".join(batch.lines).encode()
        if draw.kind == "drop_after":
            if draw.bits % 2:
                raise _DroppedError("drop_after")
            await self._cut(request, [body[: draw.bits // 2 % len(body)]], "application/x-jsonl", len(body))
        return web.Response(body=body, content_type="application/x-jsonl", headers=self.limiter.headers())

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        draw = self._looked(request)
        batch = self.batches.cancel(self.batches.find(request.match_info["id"]))
        return await self._whole(request, batch.told(_base(request)), draw)

    # -- of our own ----------------------------------------------------------------------------------------------

    def told_books(self, since: int = 0) -> dict[str, Any]:
        return {
            "billed": self.books.billed[since:],
            "requests": self.books.requests,
            "faults": self.faults.met,
            "peak": self.books.peak,
            "crashes": self.books.crashes,
            "batches": [
                batch.told("") | {"orphan": batch.orphan, "polls": batch.polls} for batch in self.batches.all.values()
            ],
        }

    async def tell_books(self, request: web.Request) -> web.Response:
        return web.json_response(self.told_books(int(request.query.get("since", 0))))

    async def tell_requests(self, request: web.Request) -> web.Response:
        return web.json_response([row | {"body": json.loads(row["body"])} for row in self.kept])

    async def take_faults(self, request: web.Request) -> web.Response:
        try:
            return web.json_response({"waiting": self.faults.script(await request.json())})
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def nothing(self, request: web.Request) -> web.Response:
        raise RefusedError(404, f"{request.method} {request.path}: not found")


def _version(request: web.Request) -> str:
    return request.headers.get("anthropic-version", "")


def _base(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


async def serve(chosen: settings.Settings) -> None:
    server = Server(chosen)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", chosen.port, backlog=1024)
    await site.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    sys.stdout = sys.stderr  # whatever a responder prints: nobody reads the pipe from here on
    await stop.wait()
    await runner.cleanup()
    if chosen.state:
        (Path(chosen.state) / "books.json").write_text(json.dumps(server.told_books()))


def main(argv: list[str]) -> None:
    chosen = settings.parse(argv)
    if chosen.parent:
        die_with_parent()
        if os.getppid() != chosen.parent:
            sys.exit(1)  # it ended before we could ask to be told
    try:
        from uvloop import run
    except ImportError:
        run = asyncio.run
    run(serve(chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
