"""What shows in many documents only: repeated names and openings, cells that do nothing but praise.

Counts are kept in bounded memory, whatever is counted.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable


class Frequent:
    """Counts of the most frequent keys, after Misra and Gries (1982), a batch at a time.

    Never holds more than twice `capacity` keys, and counts it at most (additions / capacity) too low, never too high.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self.capacity = capacity
        self._counts: Counter[str] = Counter()
        self._added = 0
        self._lost = 0

    def add(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._counts[key] += 1
            self._added += 1
            if len(self._counts) > 2 * self.capacity:
                self._prune()

    def _prune(self) -> None:
        """Takes 1 off every count until few enough are left; each such turn costs at least `capacity` additions."""
        while len(self._counts) > self.capacity:
            self._lost += 1
            self._counts = Counter({key: n - 1 for key, n in self._counts.items() if n > 1})

    @property
    def at_most_lost(self) -> int:
        """By how much a count may be too low."""
        return self._lost

    def most_common(self, n: int | None = None) -> list[tuple[str, int]]:
        """(key, count), by count and then by key."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:n]


@dataclasses.dataclass
class Praise:
    """Of how many documents how many praise, and how many of them uniformly."""

    documents: int = 0
    praising: int = 0
    uniform: int = 0

    def add(self, praising: bool, uniform: bool) -> None:
        self.documents += 1
        self.praising += praising
        self.uniform += uniform

    @property
    def share(self) -> float:
        """Of uniformly praising documents among all."""
        return self.uniform / max(self.documents, 1)
