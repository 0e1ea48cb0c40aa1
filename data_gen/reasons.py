"""Reasons in short conversations about tastes: what of a message or an answer states, or hints at, why.

Patterns of reasons.toml are looked for in both; beyond that, what is said has to keep to a vocabulary. An answer needs
few words to state a preference, so any that is neither one of these (`plain`), nor in the message, nor in a name counts
as well. A message may need more of them (`neutral`). This is meant to miss little; what it takes for a reason without
need is asked for anew.
"""

import dataclasses
import functools
import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("reasons.toml")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclasses.dataclass(frozen=True)
class Finding:
    """kind: the name of the list in reasons.toml, or `word`."""

    kind: str
    quote: str


@functools.cache
def _patterns(part: str) -> dict[str, re.Pattern[str]]:
    return {
        name: re.compile("|".join(rf"(?:{p})" if rule.get("whole") else rf"\b(?:{p})\b" for p in rule["patterns"]))
        for name, rule in _raw()[part].items()
    }


@functools.cache
def _raw() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


@functools.cache
def _bare() -> frozenset[str]:
    """The words of a bare preference."""
    return frozenset(word for words in _raw()["plain"].values() for word in words)


@functools.cache
def _neutral() -> frozenset[str]:
    """The words of a message that asks for one."""
    return _bare().union(*(words.split() for words in _raw()["neutral"].values()))


def digest() -> str:
    """sha256 of reasons.toml."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def find_in_answer(answer: str, message: str, names: Sequence[str]) -> list[Finding]:
    """Reasons in an answer, and every word that a bare preference has no need of.

    names: of the thing and of others that are spoken of; no reasons, whatever they are called (mild cheddar).
    """
    odd = sorted(_words(answer) - _bare() - _words(message) - _words(" ".join(names)))
    said = _without(answer, names)
    parts = [part for part in re.split(r"[.!?;:,\u2013\u2014]", said) if _WORD.search(part)]
    return _find(said, "answer") + [Finding("word", word) for word in odd] + _remarks(parts, "mine")


def find_in_message(message: str, names: Sequence[str]) -> list[Finding]:
    """Reasons that a message suggests."""
    said = _without(message, names)
    odd = sorted(_words(said) - _neutral())
    sentences = [part for part in re.split(r"(?<=[.!?])\s", said) if _WORD.search(part) and not part.endswith("?")]
    told = [Finding("remark", part[:80]) for part in sentences if re.match(_raw()["forms"]["statement"], part)]
    return _find(said, "message") + [Finding("word", word) for word in odd] + _remarks(sentences, "asker") + told


def _remarks(parts: list[str], who: str) -> list[Finding]:
    """Parts of what is said that neither speak of the speaker or the thing, nor tell to do something, nor are bare."""
    forms = {name: frozenset(words.split()) for name, words in _raw()["forms"].items()}
    found = []
    for part in parts:
        words = _WORD.findall(part)
        fine = (
            forms["bare"].issuperset(words) or words[0] in forms["orders"] or not {"it", *forms[who]}.isdisjoint(words)
        )
        found += [] if fine else [Finding("remark", part.strip()[:80])]
    return found


def _find(said: str, part: str) -> list[Finding]:
    """By the patterns for both (connectives, comparisons, loaded words, price, origin, taste) and by a part's own."""
    patterns = _patterns("reasons") | _patterns(part)
    return [Finding(name, match[0]) for name, pattern in patterns.items() if (match := pattern.search(said))]


def _without(text: str, names: Sequence[str]) -> str:
    """The text with `it` for every name, which may stand in the plural."""
    longest_first = sorted(map(_plain, names), key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, longest_first))})s?\b", "it", _plain(text))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return text.replace("\u2019", "'").replace("\u2018", "'")


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(_plain(text)))
