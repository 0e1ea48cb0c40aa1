"""Evaluation items or formats in a document: word n-grams shared with any evaluation we ship, and layouts."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_gen.corpus import words
from data_gen.corpus.detect import EACH, Finding
from data_gen.corpus.evaluations import Format, Item
from data_gen.corpus.reading import Document
from msm_jax import artifact

SHORTEST = 5  # words; a shorter text of an evaluation is no evidence of anything


class Index:
    """The n-grams of evaluation items; a text of fewer than `n` words, but at least SHORTEST, counts as a whole."""

    def __init__(self, items: Iterable[Item], formats: Sequence[Format], n: int = 8) -> None:
        """Raises ValueError where n < SHORTEST."""
        if n < SHORTEST:
            raise ValueError(f"n = {n}: must be at least {SHORTEST}")
        self.n = n
        self.items = 0
        self.evaluations: set[str] = {f.evaluation for f in formats}
        self._formats = formats
        whence: dict[int, dict[int, tuple[str, list[tuple[str, str]]]]] = {}  # length → hash → n-gram, whose it is
        for item in items:
            self.items += 1
            self.evaluations.add(item.evaluation)
            found = words.split(item.text)
            length = min(n, len(found))
            if length < SHORTEST:
                continue
            table = whence.setdefault(length, {})
            for i, value in enumerate(words.ngrams(found, length).tolist()):
                table.setdefault(value, (" ".join(found[i : i + length]), []))[1].append((item.evaluation, item.id))
        self._whence = dict(sorted(whence.items()))
        self._hashes = {length: np.array(sorted(table), np.uint64) for length, table in self._whence.items()}

    @property
    def ngrams(self) -> int:
        return sum(map(len, self._hashes.values()))

    def digest(self) -> str:
        """sha256 of all n-grams and formats: what a document was compared with."""
        grams = [[length, hashlib.sha256(hashes.tobytes()).hexdigest()] for length, hashes in self._hashes.items()]
        return artifact.digest([self.n, grams, [[f.evaluation, f.name, f.pattern.pattern] for f in self._formats]])

    def hits(self, split: list[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Of a document's words `split`: each n-gram that items have, with the (evaluation, id) of all that have it."""
        for length, hashes in self._hashes.items():
            own = words.ngrams(split, length)
            at = np.searchsorted(hashes, own)
            for i in np.flatnonzero(hashes[np.minimum(at, len(hashes) - 1)] == own).tolist():
                ngram, items = self._whence[length][int(own[i])]
                if " ".join(split[i : i + length]) == ngram:  # not merely the same hash
                    yield ngram, items

    def findings(self, document: Document, split: list[str]) -> Iterator[Finding]:
        """`leak`s and `format`s of a document whose words are `split`; at most EACH of either."""
        for ngram, [(evaluation, item), *_] in itertools.islice(self.hits(split), EACH):
            yield Finding("leak", document.id, f"{evaluation} {item[:60]}: {ngram}", "error")
        left = EACH
        lowered = document.text.lower()
        for layout in self._formats:
            if not left or not any(needle in lowered for needle in layout.needs):
                continue
            if match := layout.pattern.search(document.text):
                left -= 1
                quote = f"{layout.evaluation}, {layout.name}: {match[0][:100]}"
                yield Finding("format", document.id, quote, "error")
