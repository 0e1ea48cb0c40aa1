"""What the Anthropic and the OpenAI SDK have in common: the same generator made both, with the same errors.

Both are run on aiohttp, which takes half the processor time of their default at dozens of connections.
"""

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping

import aiohttp
import httpx2

from data_gen.api.provider import Allowance, Declined, Lost, said

ATTEMPT_HEADER = "x-msm-request"  # an attempt's number in the ledger, so that a server's log can be held against it
CONNECT_SECONDS = 20.0
_AGAIN = (408, 409, 429)


@contextlib.contextmanager
def translated(connection_error: type[Exception], status_error: type[Exception], secret: str) -> Iterator[None]:
    """An SDK's errors as Declined and Lost, with nothing of the request, which holds the key, in them."""
    error: Declined | Lost
    try:
        yield
        return
    except TimeoutError:
        error = Lost("no answer in time")
    except connection_error as found:
        error = _unconnected(found, secret)
    except status_error as found:
        error = _declined(found, secret)
    except (httpx2.HTTPError, httpx2.StreamError, json.JSONDecodeError, UnicodeDecodeError, LookupError) as found:
        error = Lost(f"not a whole answer: {said(found, secret)}")
    raise error from None


def _unconnected(error: Exception, secret: str) -> Declined | Lost:
    """Was there ever a connection? Only aiohttp's error says: httpx2.ConnectError also stands for one that broke."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        cause = cause.__cause__
    message = said(str(error.__cause__ or "") or error, secret)
    return Declined(0, "not_connected", message) if cause else Lost(message)


def _declined(error: Exception, secret: str) -> Declined | Lost:
    status: int = getattr(error, "status_code", 0)
    headers = error.response.headers  # type: ignore[attr-defined]
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    inner = inner if isinstance(inner, dict) else {}
    kind = said(inner.get("type") or getattr(error, "type", None) or f"http_{status}", secret)[:64]
    message = said(inner.get("message") or error, secret)
    if status < 400:  # an error in the middle of a stream
        return Lost(f"{kind}: {message}")
    again = status >= 500 or status in _AGAIN
    told = headers.get("x-should-retry")
    fatal = told == "false" or (told != "true" and not again)
    return Declined(status, kind, message, _seconds(headers.get("retry-after")), fatal)


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:  # a date: our own waiting has to do
        return None


def allowance(headers: Mapping[str, str], prefix: str) -> Allowance:
    """Rate-limit headers `<prefix>requests-remaining`, `<prefix>requests-reset` (RFC 3339) and their like."""
    now = datetime.datetime.now(datetime.UTC)
    remaining, reset = {}, {}
    for name, value in headers.items():
        limit, _, what = name.lower().removeprefix(prefix).rpartition("-")
        if not name.lower().startswith(prefix):
            continue
        with contextlib.suppress(ValueError, TypeError):
            if what == "remaining":
                remaining[limit] = int(value)
            elif what == "reset":
                reset[limit] = max(0.0, (datetime.datetime.fromisoformat(value) - now).total_seconds())
    return Allowance(remaining, reset)


def whole(text: str) -> str:
    """Text that every file can hold: half a surrogate pair, which JSON can carry, becomes a replacement mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
