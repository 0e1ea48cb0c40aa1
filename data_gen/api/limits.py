"""How many requests may be in flight: as many as the provider takes, found by trying and by what its headers say."""

import asyncio
import collections
import time

from data_gen.api.provider import Allowance
from data_gen.api.request import Usage

LONGEST_WAIT = 60.0  # seconds for a limit to be full again: they are all per minute
START = 16


class Limits:
    """Additive increase, multiplicative decrease between 1 and `most`.

    Until the provider first declines, each success lets in one more; from then on one more per as many successes as
    may be in flight. Overload halves, at most once a second. Nothing is sent before a limit's reset where its header
    said that less is left than what is in flight needs.
    """

    def __init__(self, most: int, start: int = START) -> None:
        self.most = most
        self.busy = 0
        self._limit = float(min(start, most))
        self._overloaded = -1.0  # when last
        self._until = 0.0  # nothing is sent before
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._mean = {"input-tokens": 0.0, "output-tokens": 0.0, "tokens": 0.0}  # a request's, lately

    @property
    def limit(self) -> int:
        return int(self._limit)

    async def enter(self) -> None:
        """Waits until one more may be sent; `leave` must follow."""
        while True:
            if self.busy >= self.limit:
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    self._wake()  # the turn may have been given to us already
                    raise
            elif (wait := self._until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            else:
                self.busy += 1
                return

    def leave(self) -> None:
        self.busy -= 1
        self._wake()

    def succeeded(self, usage: Usage) -> None:
        read = usage.prompt - usage.cache_read  # what was read from a cache does not count
        for name, tokens in (("input-tokens", read), ("output-tokens", usage.output), ("tokens", read + usage.output)):
            self._mean[name] += 0.1 * (tokens - self._mean[name]) if self._mean[name] else tokens
        step = 1.0 if self._overloaded < 0 else 1.0 / self._limit
        self._limit = min(float(self.most), self._limit + step)
        self._wake()

    def overloaded(self, retry_after: float | None = None) -> None:
        """The provider declined for want of room (429, 529)."""
        now = time.monotonic()
        if self._overloaded < 0 or now - self._overloaded >= 1.0:
            self._limit = max(1.0, self._limit / 2)
            self._overloaded = now
        if retry_after:
            self._until = max(self._until, now + min(retry_after, LONGEST_WAIT))

    def heard(self, allowance: Allowance) -> None:
        for name, remaining in allowance.remaining.items():
            need = self.busy * self._mean.get(name, 1.0)
            if remaining < need:
                wait = min(allowance.reset.get(name, 0.0), LONGEST_WAIT)
                self._until = max(self._until, time.monotonic() + wait)

    def _wake(self) -> None:
        room = self.limit - self.busy
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1
