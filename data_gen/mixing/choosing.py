"""Which rows of the sources make up the mix: so many of each, or so many tokens. Always the first of the seeded order;
for a number of tokens some are exchanged for others of their source."""

from collections.abc import Callable, Sequence

import numpy as np

SPARE = 0.25  # of a source's rows are looked at beyond those wanted, where tokens have to be met


def exchanged(
    cells: Sequence[np.ndarray], taken: Sequence[np.ndarray], target: float, tolerance: float
) -> list[np.ndarray]:
    """Masks with as many rows of each cell as before, whose tokens are `target` within `tolerance` of it, or as near as
    exchanges of one row for another bring them.

    cells: of each source int [N] tokens. taken: of each bool [N].
    """
    found = [mask.copy() for mask in taken]
    while True:
        gap = target - sum(int(lengths[mask].sum()) for lengths, mask in zip(cells, found, strict=True))
        if abs(gap) <= tolerance * target:
            return found
        best = (abs(gap), -1, -1, -1)
        for cell, (lengths, mask) in enumerate(zip(cells, found, strict=True)):
            best = min(best, (*_pair(lengths, mask, gap), cell))
        if best[1] < 0:
            return found
        found[best[3]][best[1]], found[best[3]][best[2]] = False, True


def _pair(lengths: np.ndarray, mask: np.ndarray, gap: float) -> tuple[float, int, int]:
    """(the gap that would be left, the row that goes, the row that comes); rows are -1 where none makes it smaller."""
    outs, ins = np.flatnonzero(mask), np.flatnonzero(~mask)
    if not len(outs) or not len(ins):
        return abs(gap), -1, -1
    ins = ins[np.argsort(lengths[ins], kind="stable")]
    wanted = lengths[outs] + gap
    at = np.searchsorted(lengths[ins], wanted)
    best = (abs(gap), -1, -1)
    for near in (np.maximum(at - 1, 0), np.minimum(at, len(ins) - 1)):
        left = np.abs(wanted - lengths[ins[near]])
        i = int(np.argmin(left))
        if left[i] < best[0]:
            best = (float(left[i]), int(outs[i]), int(ins[near[i]]))
    return best


def by_tokens(alive: Callable[[int], np.ndarray], target: int, tolerance: float) -> tuple[np.ndarray, int]:
    """(bool mask over the rows looked at, tokens there are) for nearly `target` tokens of one source.

    alive: many → int [at most many] tokens of the first rows.
    """
    many = 16
    while True:
        lengths = alive(many)
        if len(lengths) < many or lengths.sum() >= target * (1 + SPARE):
            break
        many *= 2
    sums = np.concatenate([[0], np.cumsum(lengths)])
    count = int(np.argmin(np.abs(sums - target)))
    window = lengths[: count + max(50, int(count * SPARE))]
    mask = np.arange(len(window)) < count
    return exchanged([window], [mask], target, tolerance)[0], int(sums[-1])
