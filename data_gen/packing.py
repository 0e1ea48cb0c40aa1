"""Which part of which document goes into which row. Pure functions of the lengths."""

from collections.abc import Sequence
from typing import NamedTuple

from msm_jax.cli import UserError


class Piece(NamedTuple):
    """`length` tokens of document number `document`, from its token `start` on."""

    document: int
    start: int
    length: int


Row = list[Piece]
METHODS = ("best_fit", "none", "concat_split")


def pack(lengths: Sequence[int], seq_len: int, method: str) -> list[Row]:
    """Rows of at most `seq_len` tokens that hold every token of every document exactly once.

    best_fit: longest first, each into the fullest row that still has room (best-fit decreasing).
    none: one piece a row. concat_split: documents in order, end to end, cut at row boundaries.
    Documents longer than a row are cut into whole rows and a rest.
    """
    if method == "concat_split":
        return _concat_split(lengths, seq_len)
    pieces = [
        Piece(document, start, min(seq_len, length - start))
        for document, length in enumerate(lengths)
        for start in range(0, length, seq_len)
    ]
    if method == "none":
        return [[piece] for piece in pieces]
    if method == "best_fit":
        return _best_fit(pieces, seq_len)
    raise UserError(f"packing {method!r} is none of {', '.join(METHODS)}")


def _best_fit(pieces: list[Piece], seq_len: int) -> list[Row]:
    rows: list[Row] = []
    open_rows: list[list[int]] = [[] for _ in range(seq_len + 1)]  # free tokens → rows that have as many
    occupied = 0  # bit f is set where open_rows[f] is not empty: the smallest fitting f is one shift away
    for piece in sorted(pieces, key=lambda p: -p.length):
        fitting = occupied >> piece.length
        if fitting:
            free = piece.length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                occupied ^= 1 << free
        else:
            free, row = seq_len, len(rows)
            rows.append([])
        rows[row].append(piece)
        open_rows[free - piece.length].append(row)
        occupied |= 1 << (free - piece.length)
    return rows


def _concat_split(lengths: Sequence[int], seq_len: int) -> list[Row]:
    rows: list[Row] = [[]]
    free = seq_len
    for document, length in enumerate(lengths):
        start = 0
        while start < length:
            if free == 0:
                rows.append([])
                free = seq_len
            piece = Piece(document, start, min(free, length - start))
            rows[-1].append(piece)
            start, free = start + piece.length, free - piece.length
    return rows
