"""Tokens of all documents of a corpus, out of memory's way."""

import tempfile
from array import array

import numpy as np

from data_gen.encode import Coded
from data_gen.packing import Piece
from data_gen.tokenizer import Encoded


class Spill:
    """Documents' tokens, weights and provenance in temporary files without a name ($TMPDIR), which go when the process
    does, however it ends; their ids and lengths are in memory. 8 bytes a token."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.lengths = array("q")
        self.about = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.says_something = False
        self._begins = array("q")  # where a document's tokens begin, in bytes
        self._size = 0
        self._tokens = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, coded: Coded) -> None:
        self.ids += coded.ids
        for length in coded.lengths:
            self.lengths.append(length)
            self._begins.append(self._size)
            self._size += 8 * length
        self._tokens.write(coded.tokens)
        self.about.write(coded.about.encode())
        self.says_something |= coded.says

    def part(self, piece: Piece) -> Encoded:
        """The tokens and weights of a piece."""
        begin, length = self._begins[piece.document], self.lengths[piece.document]
        return Encoded(
            self._read(begin + 4 * piece.start, piece.length, "<i4"),
            self._read(begin + 4 * (length + piece.start), piece.length, "<f4"),
        )

    def _read(self, at: int, count: int, kind: str) -> np.ndarray:
        self._tokens.seek(at)
        return np.frombuffer(self._tokens.read(4 * count), kind)

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self.about.close()
