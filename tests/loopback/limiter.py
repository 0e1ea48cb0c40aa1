"""The API's rate limit headers, and an honest limit of questions a minute if one is asked for."""

import datetime
import time

NOMINAL = {"requests": 4000, "tokens": 2_400_000, "input-tokens": 2_000_000, "output-tokens": 400_000}  # a minute


class Limiter:
    """A token bucket that fills evenly, as the API's does; holds a sixtieth of its minute, or one question."""

    def __init__(self, rpm: int) -> None:
        self._rpm = rpm
        self._holds = max(1.0, rpm / 60)
        self._left, self._filled = self._holds, time.monotonic()
        self._second, self._reset = 0, ""

    def take(self) -> float:
        """Seconds to wait; 0: go on."""
        if not self._rpm:
            return 0.0
        now = time.monotonic()
        self._left = min(self._holds, self._left + (now - self._filled) * self._rpm / 60)
        self._filled = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) * 60 / self._rpm

    def headers(self, refused: bool = False) -> dict[str, str]:
        now = int(time.time())
        if now != self._second:
            self._second, self._reset = (
                now,
                datetime.datetime.fromtimestamp(now + 1, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        told = {}
        for kind, nominal in NOMINAL.items():
            limit = self._rpm if kind == "requests" and self._rpm else nominal
            left = 0 if refused else int(limit * self._left / self._holds) if self._rpm else limit - 1
            told[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
            told[f"anthropic-ratelimit-{kind}-remaining"] = str(left)
            told[f"anthropic-ratelimit-{kind}-reset"] = self._reset
        return told
