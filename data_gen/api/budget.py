"""The money: a cap that is never passed, and an alarm when it buys much less than it did in the pilot."""

import asyncio

from data_gen.api.store import Store
from msm_jax.cli import UserError


class CapReached(UserError):  # noqa: N818
    """The next request could pass the cap."""


class YieldAlarm(UserError):  # noqa: N818
    """A dollar keeps far fewer items than the pilot's did."""


class Budget:
    """spent + what unknown outcomes may have cost + what requests in flight may cost ≤ cap_usd, at all times.

    A request is let through only where its worst case fits; where it does not, but requests in flight may give back
    some of theirs, it waits for them. `store` says what earlier processes spent.

    The alarm: after each `window_usd` spent, items kept per dollar are compared with the pilot's (`expect`).
    """

    def __init__(self, cap_usd: float, store: Store, *, fraction: float = 0.5, window_usd: float = 5.0) -> None:
        self.cap_usd = cap_usd
        self.spent, self.unknown, self.reserved = store.money()
        self._in_flight = 0  # reservations of this process
        self._changed = asyncio.Event()
        self._expected, self._fraction, self._window = 0.0, fraction, window_usd
        self._kept, self._since = 0, self.spent

    def fits(self, usd: float) -> bool:
        return self.spent + self.unknown + self.reserved + usd <= self.cap_usd * (1 + 1e-9)

    def take(self, usd: float) -> bool:
        """Reserves a request's worst case; False where it does not fit now."""
        if not self.fits(usd):
            return False
        self.reserved += usd
        self._in_flight += 1
        return True

    async def reserve(self, usd: float) -> None:
        """The same, waiting for room.

        Raises:
          CapReached: it does not fit, and nothing in flight could make room.
        """
        while not self.take(usd):
            if not self._in_flight:
                raise self.reached(usd)
            await self._changed.wait()

    def reached(self, usd: float) -> CapReached:
        unknown = f" and at most {self.unknown:.2f} for lost answers" if self.unknown else ""
        waiting = f" and at most {self.reserved:.2f} for what is being answered" if self.reserved > 1e-9 else ""
        return CapReached(
            f"the cap of {self.cap_usd:.2f} USD is reached: {self.spent:.2f} spent{unknown}{waiting}, and the next "
            f"request may cost {usd:.4f}; raise config.api.cap_usd to go on"
        )

    def settle(self, reserved: float, spent: float = 0.0, unknown: float = 0.0) -> None:
        """A reservation ends: in a reply's cost, in an unknown outcome's worst case, or in nothing."""
        self.move(reserved, spent, unknown)
        self.let_go()

    def move(self, reserved: float, spent: float = 0.0, unknown: float = 0.0) -> None:
        """What was reserved, or a part of it, is no longer."""
        self.reserved = max(0.0, self.reserved - reserved)
        self.spent += spent
        self.unknown += unknown
        self._wake()

    def hold(self) -> None:
        """Something is in flight whose worst case is in `reserved` already: a batch, perhaps an earlier process's."""
        self._in_flight += 1

    def let_go(self) -> None:
        """It no longer is."""
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def expect(self, per_usd: float) -> None:
        """Sets the pilot's yield, items kept per dollar, and starts watching."""
        self._expected, self._kept, self._since = per_usd, 0, self.spent

    def kept(self, count: int = 1) -> None:
        """So many more items were kept; 0 to say that one was rejected.

        Raises:
          YieldAlarm: over the last window, a dollar kept less than `fraction` of what it did in the pilot.
        """
        self._kept += count
        spent = self.spent - self._since
        if not self._expected or spent < self._window:
            return
        rate = self._kept / spent
        if rate < self._fraction * self._expected:
            raise YieldAlarm(
                f"the last {spent:.2f} USD kept {self._kept} items, {rate:.2f} per USD, and the pilot kept "
                f"{self._expected:.2f}; look at the rejects, then mend the prompts or lower config.api.yield_fraction"
            )
        self._kept, self._since = 0, self.spent
