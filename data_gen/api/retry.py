"""How long to wait before one more try, and what to say when there is none."""

import random

from data_gen.api.provider import Declined, Lost, Unavailable
from msm_jax.cli import UserError

LONGEST = 60.0  # seconds between tries that we choose ourselves
TOO_LONG = 600.0  # seconds; a provider that asks to wait for longer has run out of more than breath

_MENDS = {
    401: "check the key in the environment",
    402: "check the account's credit",
    403: "the key may not do this; use another",
    404: "check the model's name and the address",
    429: "raise the account's limit, or wait",
}
OF_THE_ACCOUNT = tuple(_MENDS)  # what is declined so is declined for every request


class Backoff:
    """So many tries, with waits that double from `first` seconds and vary by half, so that clients part."""

    def __init__(self, tries: int, first: float) -> None:
        self._left, self._wait = tries, first
        self._first = first

    def after(self, error: Declined | Lost, who: str) -> float:
        """Seconds to wait before the next try.

        Raises:
          Unavailable: that was the last one.
        """
        self._left -= 1
        asked = (error.retry_after or 0.0) if isinstance(error, Declined) else 0.0
        if self._left <= 0 or asked > TOO_LONG:
            raise Unavailable(f"{who}: {error}; the last of several tries: run the same command later") from None
        wait = min(self._wait, LONGEST) * random.uniform(0.5, 1.0)
        self._wait *= 2
        return max(asked, wait)


def explained(error: Declined, who: str) -> UserError:
    """A fatal refusal in one line."""
    mend = _MENDS.get(error.status, "mend the request or the configuration")
    return UserError(f"{who} declined with {error}; {mend}")
