"""Rows of several sources by weight: row i is a pure function of i, whatever was read before and by whom."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import grain
import numpy as np

from msm_jax.cli import UserError
from msm_jax.shards import FIELDS, Shards, open_shards

FINENESS = 100  # the smallest weight of a stage counts as that many parts


@dataclasses.dataclass(frozen=True)
class Stage:
    """From row `first` on, `parts[n]` of sum(parts) rows come from source n, which goes on at its row `begins[n]`."""

    first: int
    parts: tuple[int, ...]
    begins: tuple[int, ...]

    def given(self, row: int) -> list[int]:
        """How many rows each source has given before row `row` of the mixture, all stages together."""
        left, parts_left, counts = row - self.first, sum(self.parts), []
        for part in self.parts:  # of what is left, this source's share, the rest (rounded down) to those after it
            rest = left * (parts_left - part) // parts_left if parts_left else 0
            counts.append(left - rest)
            left, parts_left = rest, parts_left - part
        return [begin + count for begin, count in zip(self.begins, counts, strict=True)]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows of `sources` in shares of `weights`, each source shuffled anew every epoch.

    later: (row, weights) pairs, in order of rows: from that row on the shares are others. Every source goes on where
      it was, so appending a pair changes nothing that comes before its row.
    """

    sources: Sequence[Shards]
    weights: Sequence[float]
    seed: int
    later: Sequence[tuple[int, Sequence[float]]] = ()

    def __post_init__(self) -> None:
        for weights in (self.weights, *(weights for _, weights in self.later)):
            if len(self.sources) != len(weights):
                raise UserError(f"config.data: {len(self.sources)} sources but {len(weights)} weights")
            if not self.sources or min(weights) < 0 or not 0 < max(weights) < float("inf"):
                raise UserError("config.data: at least one source, no weight below 0, and one above it in every stage")
        starts = [0, *(row for row, _ in self.later)]
        if any(a >= b for a, b in itertools.pairwise(starts)):
            raise UserError("config.data.stages: each must begin after the one before it, the first after step 0")
        for key in ("seq_len", "tokenizer"):
            found = {shards.manifest["counts"][key] for shards in self.sources}
            if len(found) > 1:
                names = ", ".join(str(shards.directory) for shards in self.sources)
                raise UserError(f"config.data.sources: {names} differ in {key}; make them with the same settings")

    @functools.cached_property
    def _stages(self) -> list[Stage]:
        stages = [Stage(0, _parts(self.weights), (0,) * len(self.sources))]
        for row, weights in self.later:
            stages.append(Stage(row, _parts(weights), tuple(stages[-1].given(row))))
        return stages

    @functools.cached_property
    def _orders(self) -> list[grain.MapDataset]:
        """Of each source, the number of its record that comes k-th, for any k."""
        return [
            grain.MapDataset.range(len(shards.source)).seed(self.seed + n).shuffle().repeat()
            for n, shards in enumerate(self.sources)
        ]

    @property
    def seq_len(self) -> int:
        return self.sources[0].seq_len

    def rows_of_epochs(self, epochs: float) -> int:
        """How many rows it gives, at the first stage's weights, until the source that ends first was read `epochs`
        times."""
        exact = [Fraction(str(weight)) for weight in self.weights]  # decimal numbers, as somebody wrote them
        shares = [weight / sum(exact) for weight in exact]
        sizes = [len(shards.source) for shards in self.sources]
        return int(min(Fraction(str(epochs)) * n / share for n, share in zip(sizes, shares, strict=True) if share))

    def place(self, row: int) -> tuple[int, int]:
        """Where row `row` comes from: the number of a source, and of a record in it."""
        stage = self._stages[bisect.bisect_right(self._stages, row, key=lambda stage: stage.first) - 1]
        before, after = stage.given(row), stage.given(row + 1)
        source = next(n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        return source, int(self._orders[source][before[source]])

    def rows(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Rows by global index → {field: [len(indices), S]}. Raises UserError on a damaged record."""
        places = [self.place(i) for i in indices]
        found: list[Iterator[dict[str, np.ndarray]]] = []
        try:
            for n, shards in enumerate(self.sources):
                found.append(iter(shards.read([record for source, record in places if source == n])))
        except RuntimeError as error:
            for shards in self.sources:  # name the file, if the damage can be seen on disk
                open_shards(shards.directory, verify=True)
            raise UserError(f"a row of {indices[0]}..{indices[-1]} cannot be read: {error}") from error
        rows = [next(found[source]) for source, _ in places]
        return {field: np.stack([row[field] for row in rows]) for field in FIELDS}


def _parts(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole numbers, the smallest of them FINENESS."""
    scale = FINENESS / min(weight for weight in weights if weight > 0)
    return tuple(int(weight * scale) for weight in weights)
