"""An order of rows of which every beginning is a sample with each cell in proportion, drawn by seed."""

import hashlib
from collections.abc import Iterable


def spread(rows: Iterable[tuple[str, str]], seed: int) -> list[str]:
    """The ids of rows (id, cell), so ordered that the first n hold of each cell its share of n, up to one row."""
    cells: dict[str, list[str]] = {}
    for identity, cell in rows:
        cells.setdefault(cell, []).append(identity)
    places = []
    for cell, ids in cells.items():
        start = _draw(seed, "cell", cell)
        ids = sorted(ids, key=lambda one: _draw(seed, "row", one))
        places += [((i + start) / len(ids), one) for i, one in enumerate(ids)]
    return [one for _, one in sorted(places)]


def _draw(seed: int, *what: str) -> float:
    """0 ≤ x < 1"""
    found = hashlib.sha256("\0".join((str(seed), *what)).encode()).digest()
    return int.from_bytes(found[:6], "big") / 2**48
