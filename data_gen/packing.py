"""Which part of which document goes into which row. Pure functions of the lengths."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msm_jax.cli import UserError


class Piece(NamedTuple):
    """`length` tokens of document number `document`, from its token `start` on."""

    document: int
    start: int
    length: int


Row = list[Piece]
METHODS = ("best_fit", "none", "concat_split", "best_fit_split")
FULL = 0.99  # the fill that best_fit_split cuts for
_TRIES = 32  # lengths looked at for the row after a cut
_ROUNDS = 7  # in which it finds how much room a row may keep


def pack(lengths: Sequence[int], seq_len: int, method: str) -> list[Row]:
    """Rows of at most `seq_len` tokens that hold every token of every document exactly once.

    best_fit: longest first, each into the fullest row that still has room (best-fit decreasing).
    best_fit_split: the same where that fills FULL of the rows; else its loosest rows are packed anew with some pieces
    cut in two, one part at the end of a row and the other at the start of another, as few as we know how.
    none: one piece a row. concat_split: documents in order, end to end, cut at row boundaries.
    Documents longer than a row are cut into whole rows and a rest.
    """
    check_method(method)
    if method == "concat_split":
        return _concat_split(lengths, seq_len)
    pieces = [
        Piece(document, start, min(seq_len, length - start))
        for document, length in enumerate(lengths)
        for start in range(0, length, seq_len)
    ]
    if method == "none":
        return [[piece] for piece in pieces]
    return (_best_fit_split if method == "best_fit_split" else _best_fit)(pieces, seq_len)


def least_rows(lengths: Sequence[int], seq_len: int) -> int:
    """Fewer rows than this hold no whole documents of these lengths (each at most `seq_len`), however packed.

    The best of the bounds by dual feasible functions u(k), k = 1…20, of Fekete and Schepers (Math. Programming 91,
    2001), and of the sum of tokens: for k = 2 it says that of documents longer than a third a row holds two.
    """
    bounds = [-(-sum(lengths) // seq_len)]
    for k in range(1, 21):
        # u(k)(x/S) = x/S where (k+1)x/S is whole, else floor((k+1)x/S)/k; summed in units of 1/(kS)
        shares = (k * n if (k + 1) * n % seq_len == 0 else (k + 1) * n // seq_len * seq_len for n in lengths)
        bounds.append(-(-sum(shares) // (k * seq_len)))
    return max(bounds)


def check_method(method: str) -> None:
    """Raises UserError on one that there is not."""
    if method not in METHODS:
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


def _best_fit_split(pieces: list[Piece], seq_len: int) -> list[Row]:
    rows, tokens = _best_fit(pieces, seq_len), sum(piece.length for piece in pieces)
    if tokens >= FULL * len(rows) * seq_len:
        return rows
    best = _cut_to_fill(rows, seq_len, low := round((1 - FULL) * seq_len))
    high = seq_len
    for _ in range(_ROUNDS):  # the more room a row may keep, the fewer are cut
        room = (low + high) // 2
        found = _cut_to_fill(rows, seq_len, room)
        if tokens < FULL * len(found) * seq_len:
            high = room
            continue
        low = room
        if sum(map(len, found)) < sum(map(len, best)):
            best = found
    return best


class _Bag:
    """Pieces by their length."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._of: dict[int, list[Piece]] = {}
        self._lengths = 0  # bit n is set where there is a piece of n tokens
        for piece in pieces:
            self._of.setdefault(piece.length, []).append(piece)
            self._lengths |= 1 << piece.length

    def longest(self, most: int) -> int:
        """The longest length there is of at most so many tokens, 0 where there is none."""
        return max(0, (self._lengths & ((2 << most) - 1)).bit_length() - 1) if most > 0 else 0

    def take(self, length: int) -> Piece:
        pieces = self._of[length]
        if len(pieces) == 1:
            self._lengths ^= 1 << length
        return pieces.pop()

    def put(self, piece: Piece) -> None:
        self._of[piece.length].append(piece)
        self._lengths |= 1 << piece.length


def _cut_to_fill(rows: list[Row], seq_len: int, room: int) -> list[Row]:
    """Packs anew those rows that keep more than `room` tokens free.

    Each row takes the longest pieces that fit. Where more than `room` is left then, a piece is cut, if possible one
    whose rest makes a full row with two whole ones.
    """
    made = [row for row in rows if seq_len - sum(piece.length for piece in row) <= room]
    bag = _Bag(piece for row in rows if seq_len - sum(p.length for p in row) > room for piece in row)
    row: Row = []
    free = seq_len
    while bag.longest(seq_len):
        while length := bag.longest(free):
            row.append(bag.take(length))
            free -= length
        if free <= room or not bag.longest(seq_len):
            made.append(row)
            row, free = [], seq_len
            continue
        cut, *whole = _closing(bag, seq_len, free, room) or [bag.take(bag.longest(seq_len))]
        made.append([*row, cut._replace(length=free)])
        row = [cut._replace(start=cut.start + free, length=cut.length - free), *whole]
        free = seq_len - sum(piece.length for piece in row)
    return [*made, row] if row else made


def _closing(bag: _Bag, seq_len: int, free: int, room: int) -> Row | None:
    """Takes a piece to cut after `free` tokens and two whole ones that fill a row with its rest; None where there are
    no such among the longest and the _TRIES next longest that go with it."""
    first = bag.take(bag.longest(seq_len))
    second = bag.longest(seq_len - first.length)
    for _ in range(_TRIES):
        if not second:
            break
        taken = bag.take(second)
        left = seq_len - first.length - second + free  # for the piece to cut, both its parts
        length = bag.longest(min(seq_len, left))
        if length > free and left - length <= room:
            return [bag.take(length), first, taken]
        bag.put(taken)
        second = bag.longest(second - 1)
    bag.put(first)
    return None


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
