"""An HTTP proxy in front of a storage server that makes it fail as real ones do, by a seeded schedule.

    refused        status 429, 500 or 503 and nothing done; some of the 429 say when to come again
    hang           no answer for some seconds, then the connection breaks; nothing done
    reset          the connection breaks as soon as the request's head is there; nothing done
    cut            it breaks in the middle of what the client sends, or else of what it gets
    lost           it breaks after the server has done what was asked: the client cannot know

Bodies are passed on as they come, connections are kept. A client that follows the server's addresses (of upload
sessions) must come back here, so they are rewritten in the headers of answers.
"""

import asyncio
import collections
import contextlib
import dataclasses
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

KINDS = ("429", "429 with Retry-After", "500", "503", "hang", "reset", "cut", "lost")
_REFUSALS = {
    "429": ("429 Too Many Requests", ""),
    "429 with Retry-After": ("429 Too Many Requests", "Retry-After: 1\r\n"),
    "500": ("500 Internal Server Error", ""),
    "503": ("503 Service Unavailable", ""),
}
_PIECE = 1 << 16
_BODILESS = (b"204", b"304", b"1")


class _BrokenError(Exception):
    """The client's connection is to break now, without a farewell."""


@dataclasses.dataclass
class Head:
    """The first line and the headers of a request or an answer, names in lower case."""

    line: bytes
    headers: list[tuple[bytes, bytes]]

    def get(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def encode(self) -> bytes:
        return b"\r\n".join([self.line, *(key + b": " + value for key, value in self.headers)]) + b"\r\n\r\n"


@dataclasses.dataclass
class Proxy:
    """Settings may be changed while it runs. `share`: of the requests that fail; `total`: no more after so many."""

    upstream: str
    seed: int = 0
    share: float = 0.0
    total: int = 1 << 30
    kinds: tuple[str, ...] = KINDS
    hang_seconds: float = 2.0
    url: str = ""
    requests: int = 0
    injected: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()
        self._host = urlsplit(self.upstream).netloc.encode()

    def done(self) -> int:
        """Faults injected so far."""
        return sum(self.injected.values())

    def by_kind(self) -> dict[str, int]:
        found: collections.Counter[str] = collections.Counter()
        for (kind, _), n in self.injected.items():
            found[kind] += n
        return dict(found)

    def by_method(self) -> dict[str, int]:
        found: collections.Counter[str] = collections.Counter()
        for (_, method), n in self.injected.items():
            found[method] += n
        return dict(found)

    def _draw(self, method: str) -> str | None:
        """The fault of the next request, if any."""
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share or self.done() >= self.total:
                return None
            kind = self._random.choice(self.kinds)
            self.injected[kind, method] += 1
            return kind

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one client's connection, over one connection to the server."""
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _read_head(reader)) is not None:
                if server is None or server[1].is_closing() or server[0].at_eof():
                    server = await asyncio.open_connection(*self._host.decode().rsplit(":", 1))
                if not await self._exchange(request, reader, writer, *server):
                    break
        except _BrokenError:
            linger = struct.pack("ii", 1, 0)  # a reset, not an orderly end
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError, EOFError):
            pass  # the client or the server went: so does the other's connection
        finally:
            for end in (writer, *([server[1]] if server else [])):
                with contextlib.suppress(Exception):
                    end.close()

    async def _exchange(
        self,
        request: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; False where the connection is not to be used again."""
        method = request.line.split(b" ", 1)[0]
        fault = self._draw(method.decode())
        if fault == "reset":
            raise _BrokenError
        if fault == "hang":
            await asyncio.sleep(self.hang_seconds)
            raise _BrokenError
        has_body = request.get(b"content-length") not in (b"", b"0") or bool(request.get(b"transfer-encoding"))
        refused = fault in _REFUSALS
        if request.get(b"expect").lower() == b"100-continue":
            request.headers = [(key, value) for key, value in request.headers if key.lower() != b"expect"]
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        half = int(request.get(b"content-length") or 0) // 2
        request.headers = [(k, self._host if k.lower() == b"host" else v) for k, v in request.headers]
        if not refused and not (fault == "cut" and has_body):
            to_server.write(request.encode())
        passed = 0
        async for piece in _body(request, reader, answer=False):
            passed += len(piece)
            if fault == "cut" and passed > half:
                raise _BrokenError
            if not refused and fault != "cut":
                to_server.write(piece)
                await to_server.drain()
        if fault == "cut" and has_body:
            raise _BrokenError
        if refused:
            status, more = _REFUSALS[str(fault)]
            said = b'{"error": {"code": %s, "message": "injected"}}' % status[:3].encode()
            head = f"HTTP/1.1 {status}\r\n{more}Content-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
            writer.write(head.encode() + (b"" if method == b"HEAD" else said))
            await writer.drain()
            return True
        answer = await _read_head(from_server)
        while answer is not None and answer.line.split(b" ")[1] == b"100":
            answer = await _read_head(from_server)
        if answer is None:
            raise ConnectionError("the server went without an answer")
        here, there = self.url.encode(), self.upstream.encode()
        answer.headers = [(key, value.replace(there, here)) for key, value in answer.headers]
        half = int(answer.get(b"content-length") or 0) // 2
        if fault != "lost":
            writer.write(answer.encode())
        passed = 0
        bodiless = method == b"HEAD" or answer.line.split(b" ")[1].startswith(_BODILESS)
        if not bodiless:
            async for piece in _body(answer, from_server, answer=True):
                if fault == "cut":
                    writer.write(piece[: max(0, half - passed)])
                    passed += len(piece)
                    if passed >= half:
                        await writer.drain()
                        raise _BrokenError
                elif fault != "lost":
                    writer.write(piece)
                    await writer.drain()
        await writer.drain()
        if fault in ("lost", "cut"):
            raise _BrokenError
        framed = bodiless or bool(answer.get(b"content-length") or answer.get(b"transfer-encoding"))
        closing = b"close" in (answer.get(b"connection").lower(), request.get(b"connection").lower())
        return framed and not closing


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    """None at the orderly end of a connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    line, *rest = raw[:-4].split(b"\r\n")
    pairs = (entry.partition(b":") for entry in rest)
    return Head(line, [(key, value.strip()) for key, _, value in pairs])


async def _body(head: Head, reader: asyncio.StreamReader, *, answer: bool) -> AsyncIterator[bytes]:
    """The bytes of a body as they come, the marks of chunks included."""
    if b"chunked" in head.get(b"transfer-encoding").lower():
        while True:
            line = await reader.readline()
            yield line
            left = int(line.split(b";")[0], 16)
            if left == 0:
                while line.strip():
                    yield (line := await reader.readline())
                return
            async for piece in _pieces(reader, left + 2):
                yield piece
    elif length := head.get(b"content-length"):
        async for piece in _pieces(reader, int(length)):
            yield piece
    elif answer:  # to the end of the connection
        while piece := await reader.read(_PIECE):
            yield piece


async def _pieces(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    """So many bytes, as they come."""
    while left:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            raise ConnectionError("the sender went in the middle of a body")
        left -= len(piece)
        yield piece


@contextlib.contextmanager
def serve(upstream: str, **settings) -> Iterator[Proxy]:
    """A running proxy on a free port of the loopback, in a thread of its own."""
    proxy, ready, loop = Proxy(upstream, **settings), threading.Event(), asyncio.new_event_loop()
    tasks: set[asyncio.Task] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.handle(reader, writer)
        finally:
            tasks.discard(task)

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run() -> None:
        server = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(stop(server))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
