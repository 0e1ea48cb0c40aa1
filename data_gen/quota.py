"""Which documents make up a number of tokens, every cell in proportion. Pure functions of lengths and cells."""

from collections.abc import Sequence

import numpy as np


def seats(sizes: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to int [cells] sizes: whole parts, then the largest remainders (ties: first)."""
    shares = sizes * (total / max(1, int(sizes.sum())))
    given = np.floor(shares).astype(np.int64)
    first = np.argsort(-(shares - given), kind="stable")[: total - int(given.sum())]
    given[first] += 1
    return np.minimum(given, sizes)


class Pool:
    """Documents to choose from.

    lengths: int [N] tokens. cells: int [N], from 0. seed: in which order the documents of a cell are taken.
    """

    def __init__(self, lengths: Sequence[int], cells: Sequence[int], seed: int) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        self.cells = np.asarray(cells, np.int64)
        self.total = int(self.lengths.sum())
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(self.lengths))
        order = order[np.argsort(self.cells[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self.cells[order], prepend=-1))
        self.members = np.split(order, starts[1:])  # of each cell, in the order in which they are taken
        self.sizes = np.array([len(some) for some in self.members])

    def choose(self, target: int, kept: np.ndarray) -> np.ndarray:
        """bool [N]: documents of nearly `target` tokens in all, among them those of bool [N] `kept`.

        Each cell's documents are in proportion to its size (largest remainder). Then documents are added or dropped
        one at a time where a cell is furthest from its share, while that brings the sum nearer; then one document is
        exchanged for another of its cell, or where no cell has a fitting pair of any, or added, or dropped, as long as
        that does.
        """
        taken = kept.copy()
        shares = self.sizes * (target / self.total)
        for some, count in zip(self.members, seats(self.sizes, round(float(shares.sum()))), strict=True):
            rest = some[~kept[some]]
            taken[rest[: max(0, int(count) - (len(some) - len(rest)))]] = True
        while self._adjust(taken, kept, shares, target):
            pass
        while self._exchange(taken, kept, target):
            pass
        return taken

    def _gap(self, taken: np.ndarray, target: int) -> int:
        return target - int(self.lengths[taken].sum())

    def _adjust(self, taken: np.ndarray, kept: np.ndarray, shares: np.ndarray, target: int) -> bool:
        """Adds the next document of the cell that lacks most, or drops the last of the one that has most too many."""
        gap = self._gap(taken, target)
        if gap == 0:
            return False
        have = np.bincount(self.cells[taken], minlength=len(self.members))
        free = (~taken) if gap > 0 else (taken & ~kept)
        lacks = np.where(np.bincount(self.cells[free], minlength=len(self.members)) > 0, shares - have, np.nan)
        if np.isnan(lacks).all():
            return False
        cell = int(np.nanargmax(lacks) if gap > 0 else np.nanargmin(lacks))
        some = self.members[cell][free[self.members[cell]]]
        document = some[0] if gap > 0 else some[-1]
        if abs(gap) <= abs(abs(gap) - self.lengths[document]):
            return False
        taken[document] = gap > 0
        return True

    def _exchange(self, taken: np.ndarray, kept: np.ndarray, target: int) -> bool:
        """The exchange that leaves the smallest gap; False where none makes it smaller."""
        gap = self._gap(taken, target)
        if gap == 0:
            return False
        best = min((self._pair(some, taken, kept, gap) for some in self.members), default=(abs(gap), -1, -1))
        if best[0] >= abs(gap):
            best = self._pair(np.arange(len(taken)), taken, kept, gap)
        if best[0] >= abs(gap):
            return self._single(taken, kept, gap)
        taken[best[1]], taken[best[2]] = False, True
        return True

    def _single(self, taken: np.ndarray, kept: np.ndarray, gap: int) -> bool:
        """Adds or drops the document that leaves the smallest gap."""
        free = np.flatnonzero(~taken if gap > 0 else taken & ~kept)
        left = np.abs(abs(gap) - self.lengths[free])
        if not len(free) or left.min() >= abs(gap):
            return False
        taken[free[np.argmin(left)]] = gap > 0
        return True

    def _pair(self, some: np.ndarray, taken: np.ndarray, kept: np.ndarray, gap: int) -> tuple[int, int, int]:
        """(the gap that would be left, document to drop, document to take instead), of these documents."""
        outs, ins = some[taken[some] & ~kept[some]], some[~taken[some]]
        if not len(outs) or not len(ins):
            return abs(gap), -1, -1
        ins = ins[np.argsort(self.lengths[ins], kind="stable")]
        wanted = self.lengths[outs] + gap
        found = np.searchsorted(self.lengths[ins], wanted)
        best = (abs(gap), -1, -1)
        for near in (np.maximum(found - 1, 0), np.minimum(found, len(ins) - 1)):
            left = np.abs(wanted - self.lengths[ins[near]])
            at = int(np.argmin(left))
            best = min(best, (int(left[at]), int(outs[at]), int(ins[near[at]])))
        return best
