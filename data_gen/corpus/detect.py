"""Detectors: what in one document gives away that nobody wrote it for a reader.

The patterns and word lists are data (detectors.toml). Every detector is a function of one document; what shows in
many documents only (names, openings, praise) is read off each here and counted in recurring.py.
"""

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from etils import epath

from data_gen.corpus import words
from data_gen.corpus.reading import Document
from msm_jax import storage
from msm_jax.cli import UserError

OWN = Path(__file__).with_name("detectors.toml")
EACH = 5  # findings of one detector in one document; a hostile text has no say in how many are written
_QUOTE = 160  # characters
_START = 400  # characters that patterns of a document's start see
_CAPITAL = r"[A-ZÀ-ÖØ-Þ](?:[a-zß-öø-ÿ]|['’-][A-ZÀ-ÖØ-Þ])[A-Za-zÀ-ÖØ-öø-ÿ'’-]{0,30}"  # also O'Brien, McKay, Jean-Luc


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """quote: of the text, at most 160 characters. severity: error or warning."""

    detector: str
    document: str
    quote: str
    severity: str


@dataclasses.dataclass(frozen=True)
class Detector:
    """name, what it says it finds, error or warning, and the function that quotes what it finds in a document."""

    name: str
    says: str
    severity: str
    find: Callable[[Document, str], Iterator[str]]  # of the document and its text in lower case


class Detectors:
    """The table of detectors and word lists of a file; `names` are never a person's, whoever bears them."""

    def __init__(self, path: epath.PathLike = OWN, names: str = "") -> None:
        """Raises UserError naming the file: not TOML, a key missing, a pattern that does not compile."""
        try:
            data = tomllib.loads(storage.read_text(path))
            self.longest = int(data["longest"])
            self.table = [_by_pattern(entry) for entry in data["detector"]]
            self.praise = frozenset(data["praise"]["praise"].split())
            self.doubt = frozenset(data["praise"]["doubt"].split())
            self.least_praise = int(data["praise"]["least"])
            self.opening_words = int(data["openings"]["words"])
            unfinished = frozenset(data["truncated"]["unfinished"].split())
            never = data["names"]["never"].split() + words_of(names)
            titles = "|".join(map(re.escape, data["names"]["titles"]))
            self._titles = frozenset(data["names"]["titles"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file (config.detectors)") from error
        except KeyError as error:
            raise UserError(f"{path}: no key {error}") from error
        except (tomllib.TOMLDecodeError, re.error, TypeError, ValueError) as error:
            raise UserError(f"{path}: {' '.join(str(error).split())}") from error
        self.table += [
            Detector(
                "truncated", "a text that ends in the middle", "error", lambda d, _: _all(truncated(d.text, unfinished))
            ),
            Detector("empty", "a text without a word", "error", lambda d, _: _all(None if d.text.strip() else "∅")),
        ]
        self._never = frozenset(never)
        self._name = re.compile(rf"\b(?:(?:{titles})\.?[ ]{_CAPITAL}|{_CAPITAL}(?:[ ]{_CAPITAL}){{1,2}})")

    @property
    def severities(self) -> dict[str, str]:
        return {d.name: d.severity for d in self.table} | {"oversized": "error"}

    @property
    def says(self) -> dict[str, str]:
        return {d.name: d.says for d in self.table} | {"oversized": f"more than {self.longest:,} characters"}

    def findings(self, document: Document) -> list[Finding]:
        """All detectors' findings in one document, at most five each. A too long text is searched as far as allowed."""
        found: list[Finding] = []
        if len(document.text) > self.longest:
            found.append(Finding("oversized", document.id, f"{len(document.text):,} characters", "error"))
            document = self.cut(document)
        lowered = document.text.lower()
        for detector in self.table:
            for i, quote in enumerate(detector.find(document, lowered)):
                if i == EACH:
                    break
                found.append(Finding(detector.name, document.id, quote, detector.severity))
        return found

    def cut(self, document: Document) -> Document:
        return dataclasses.replace(document, text=document.text[: self.longest])

    def names(self, text: str) -> set[str]:
        """The persons' names of a text: capitalised pairs and titled names, headings not read."""
        lines = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
        pairs: set[str] = set()
        for match in self._name.finditer(lines):
            parts = [re.sub(r"['’](?:s|S)?$", "", part) for part in match[0].replace(".", "").split(" ")]
            titled = parts[0] in self._titles
            for a, b in itertools.pairwise(parts[:2] if titled else parts):
                if b not in self._never and (titled or a not in self._never):
                    pairs.add(f"{a} {b}")
        if not pairs:
            return pairs
        small = set(re.findall(r"\b[a-zß-öø-ÿ]+\b", lines))
        return {pair for pair in pairs if not {part.lower() for part in pair.split(" ")} <= small}

    def opening(self, text: str) -> str:
        """The first words of the text's body; "" of a text that has fewer."""
        first = words.split(words.body(text)[:_START])[: self.opening_words]
        return " ".join(first) if len(first) == self.opening_words else ""

    def praises(self, found: set[str]) -> tuple[bool, bool]:
        """Of a document's distinct words (folded): does it praise, and uniformly so?"""
        praise = len(found & self.praise) >= self.least_praise
        return praise, praise and not found & self.doubt


def words_of(text: str) -> list[str]:
    """The capitalised words of a text, as `names.never` lists them."""
    return re.findall(_CAPITAL + r"|\b[A-Z]+\b", text)


def needed(entry: str | list[str]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """A pattern of a file with the texts of which one must occur before it is worth a search."""
    *needles, pattern = [entry] if isinstance(entry, str) else entry
    return tuple(needles) or ("",), re.compile(pattern, re.MULTILINE)


def _by_pattern(entry: dict[str, Any]) -> Detector:
    unknown = entry.keys() - {"name", "says", "severity", "patterns", "fold", "where", "lay"}
    if unknown or entry["severity"] not in ("error", "warning") or entry.get("where", "text") not in ("text", "start"):
        raise ValueError(f"detector {entry['name']!r}: an unknown key, or severity or where is none of its words")
    patterns = [needed(pattern) for pattern in entry["patterns"]]
    fold, start, lay = entry.get("fold", False), entry.get("where") == "start", entry.get("lay", False)

    def find(document: Document, lowered: str) -> Iterator[str]:
        if lay and not document.lay:
            return
        text = lowered if fold else document.text
        if start:
            for beginning in (text[:_START], words.body(text[: 2 * _START])):
                beginning = beginning.lstrip(" \n\t*_\"“'‘>—–-")
                for _, pattern in patterns:
                    if match := pattern.match(beginning):
                        yield match[0][:_QUOTE]
                        return
            return
        for needles, pattern in patterns:
            if any(needle in text for needle in needles):
                for match in pattern.finditer(text):
                    yield _around(text, *match.span())

    return Detector(entry["name"], entry["says"], entry["severity"], find)


def _around(text: str, start: int, end: int) -> str:
    """The match with up to 40 characters of its line on either side."""
    left = max(text.rfind("\n", 0, start) + 1, start - 40)
    line = text.find("\n", end)
    right = min(len(text) if line < 0 else line, end + 40)
    return text[left : max(right, end)][:_QUOTE]


def _all(quote: str | None) -> Iterator[str]:
    if quote is not None:
        yield quote


_CLOSING = "*_`\"'”’)]}>»|~ \t"
_LIST_ITEM = re.compile(r"\s*(?:[-*+•—–]|\d{1,3}[.)]|[#>|])\s?")


def truncated(text: str, unfinished: Set[str]) -> str | None:
    """The last line of a text that ends in the middle, else None.

    A text may end without a full stop where its last line is a signature, a list item, a heading or a row of a table:
    short, or marked as such. It may not end with a comma or a colon, with a word that asks for another, or in an open
    block of code. `unfinished`: words that ask for another.
    """
    text = text.rstrip()
    last = text[text.rfind("\n") + 1 :]
    if len(re.findall(r"^```", text, re.MULTILINE)) % 2:
        return last[-_QUOTE:] or "```"
    bare = last.rstrip(_CLOSING)
    if not bare or not text:
        return None
    if bare[-1] in ",;:([{–—" or (bare[-1] == "-" and len(bare) > 3 and not set(bare) <= set("-= ")):
        return last[-_QUOTE:]
    if not (bare[-1].isalnum() or bare[-1] == "-"):
        return None
    found = bare.split()
    if found[-1] in unfinished:
        return last[-_QUOTE:]
    if _LIST_ITEM.match(last) or last.rstrip().endswith(("*", "_", "|", "`", ">")) or len(found) <= 8:
        return None
    return last[-_QUOTE:]
