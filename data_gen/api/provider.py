"""What the client needs of a provider, and the ways in which a provider says no."""

import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from data_gen.api.request import Reply, Request


class Declined(Exception):  # noqa: N818
    """The provider answered, and the answer is no: nothing was billed.

    status: HTTP's; 0: there was no connection, so nothing was sent.
    kind: the provider's word for it, such as rate_limit_error.
    retry_after: seconds it asks to wait. fatal: the same request will be declined again.
    """

    def __init__(
        self, status: int, kind: str, message: str, retry_after: float | None = None, fatal: bool = False
    ) -> None:
        super().__init__(f"{status or 'no connection'} {kind}: {message}")
        self.status, self.kind, self.message = status, kind, message
        self.retry_after, self.fatal = retry_after, fatal


class Lost(Exception):  # noqa: N818
    """Sent, and no whole answer came back (dropped, timed out): perhaps it was billed."""


class Unavailable(Exception):  # noqa: N818
    """The provider failed for longer than we try; passes with time, so the process ends in status 3."""

    exit_status = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no answer."""

    key: str
    kind: str  # the provider's word for it: invalid_request_error, expired, canceled …
    message: str = ""
    again: bool = False  # another try may succeed


@dataclasses.dataclass(frozen=True, slots=True)
class Allowance:
    """What rate-limit headers say is left of `requests`, `input-tokens` …, and in how many seconds it is full again."""

    remaining: dict[str, int]
    reset: dict[str, float]


Heard = Callable[[Allowance], None]


def ignore(_: Allowance) -> None:
    """For who does not care about allowances."""


class Provider(Protocol):
    """Who answers.

    name: for messages. price_as: the price file's entry for all its models; empty: each model has its own.
    batches: its bulk interface, where it has one.
    """

    name: str
    price_as: str

    @property
    def batches(self) -> "BatchProvider | None": ...

    async def ask(self, request: Request, attempt: int, heard: Heard = ignore) -> Reply:
        """One attempt, never a second one by itself. The reply's `cost` is left to the client.

        Raises:
          Declined, Lost.
        """
        ...

    def caches(self, request: Request) -> bool:
        """Will the request's system text be kept, so that the next one with it costs less?"""
        ...

    async def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class BatchState:
    """A batch at the provider. count: its requests, 0 where the provider does not say."""

    id: str
    created_at: float  # seconds since 1970, by the provider's clock
    ended: bool
    count: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request of a batch: a reply or a failure."""

    key: str
    outcome: Reply | Failure


class BatchProvider(Protocol):
    """Requests by the thousand, answered within a day at a discount. Every verb raises Declined or Lost."""

    def encoded_bytes(self, request: Request) -> int:
        """What the request adds to the size of a batch."""
        ...

    async def create(self, requests: list[Request], batch: int) -> str:
        """The provider's id of a new batch; `batch` is ours, for the server's log."""
        ...

    async def status(self, batch: str) -> BatchState: ...

    def results(self, batch: str) -> AsyncIterator[BatchResult]:
        """Of an ended batch, in any order."""
        ...

    async def cancel(self, batch: str) -> None:
        """Asks for it; what was answered until it ends is billed."""
        ...

    def created_since(self, when: float) -> AsyncIterator[BatchState]:
        """This account's batches, newest first."""
        ...


_SECRETS = re.compile(r"\b(sk-|Bearer )[\w.-]{8,}")


def said(message: object, *secrets: str) -> str:
    """A foreign message as one line of at most 300 characters, without our secrets or anything that looks like one."""
    text = " ".join(str(message).split())
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    text = _SECRETS.sub("…", text)
    return text if len(text) <= 300 else text[:299] + "…"
