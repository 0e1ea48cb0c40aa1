"""How many transcripts each category drives, and which categories are one."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from statsmodels.stats.proportion import proportion_confint

from evals.patterns.codebook import Codebook

# The published procedure merges concepts with more than 75% overlap of their samples, and does not say of what. We take
# the Jaccard index, |A∩B| / |A∪B|: it is high only where two categories pick out nearly the same transcripts. By the
# smaller set, |A∩B| / min(|A|, |B|), a rare category that lies within a common one would vanish in it, and rare ones,
# as misuse of policy, are what one is after.
OVERLAPS = ("jaccard", "smaller")


@dataclasses.dataclass(frozen=True)
class Rate:
    """k of n transcripts, and the 95% Wilson interval of k/n; NaN where n = 0."""

    k: int
    n: int

    def row(self) -> dict[str, Any]:
        if not self.n:
            return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
        low, high = proportion_confint(self.k, self.n, method="wilson")
        return {"k": self.k, "n": self.n, "rate": self.k / self.n, "low": float(low), "high": float(high)}


def rate(verdicts: Iterable[bool | None]) -> Rate:
    """Of verdicts that are there."""
    found = [verdict for verdict in verdicts if verdict is not None]
    return Rate(sum(found), len(found))


def overlap(a: set[str], b: set[str], measure: str) -> float:
    """From 0 to 1; 0 where either is empty."""
    if not a or not b:
        return 0.0
    return len(a & b) / (len(a | b) if measure == "jaccard" else min(len(a), len(b)))


@dataclasses.dataclass(frozen=True)
class Merged:
    """Categories that are one from here on. overlap: of the last two parts that were joined; 1 of a single category."""

    keys: tuple[str, ...]
    transcripts: frozenset[str]
    overlap: float


def merge(sets: Mapping[str, set[str]], book: Codebook, measure: str, above: float, least: int) -> list[Merged]:
    """The categories, those that overlap by more than `above` joined, the most alike first, until none do.

    Categories of two kinds are never joined: an aligned and a misaligned reason that go together are two findings.

    Args:
      sets: category → ids of the transcripts that it drives.
      least: transcripts that either part must have, or nothing can be said about their overlap.
    """
    parts = [Merged((key,), frozenset(sets[key]), 1.0) for key in book.keys]
    while True:
        found = [
            (overlap(set(a.transcripts), set(b.transcripts), measure), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(parts), 2)
            if book[a.keys[0]].kind == book[b.keys[0]].kind and min(len(a.transcripts), len(b.transcripts)) >= least
        ]
        high, i, j = max(found, key=lambda one: (one[0], -one[1], -one[2]), default=(0.0, 0, 0))
        if high <= above:
            return parts
        a, b = parts[i], parts.pop(j)
        parts[i] = Merged(a.keys + b.keys, a.transcripts | b.transcripts, high)


def overlaps(sets: Mapping[str, set[str]], book: Codebook, above: float) -> list[dict[str, Any]]:
    """The pairs of categories that overlap by more than `above` by either measure."""
    rows = []
    for a, b in itertools.combinations(book.keys, 2):
        row = {measure: overlap(sets[a], sets[b], measure) for measure in OVERLAPS}
        if max(row.values()) > above:
            rows.append({"categories": [a, b], **row})
    return rows


def groups(fields: Sequence[str], group: Mapping[str, Any]) -> list[str]:
    """The groups a transcript is counted in: one for every field, and for their combination where there are several."""
    named = [f"{field}={group.get(field, '–')}" for field in fields]
    return [*named, ", ".join(named)] if len(named) > 1 else named
