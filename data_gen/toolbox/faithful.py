"""Is a rewritten document what was asked for? First what can be counted, then a judge's verdict."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from data_gen import reading
from data_gen.api.request import Reply
from data_gen.reading import Rejected
from data_gen.spec import words
from data_gen.toolbox.parts import fields, schema, tagged

WORDS_PER_SHOULD = 250
QUESTIONS = ("meaning_kept", "nothing_added", "subject_right", "mood_right", "old_gone")
SCHEMA: dict[str, Any] = schema(**{name: {"type": "boolean"} for name in QUESTIONS}, why={"type": "string"})
_LEFT = re.compile(r"</?\w+>|\[(?:name|model|company|provider|your \w+)\]|\{\w+\}|<\|\w+\|>", re.IGNORECASE)
_SHOULD = re.compile(r"\b(?:should|ought to)\b", re.IGNORECASE)
_SIGNS = str.maketrans("", "", "*_`~")


def plain(text: str) -> str:
    """The text as names are looked for in it: compatible letters, no invisible ones, no signs of emphasis."""
    if not text.isascii():
        text = _invisible().sub("", unicodedata.normalize("NFKC", text))
    return text.translate(_SIGNS)


@functools.cache
def _invisible() -> re.Pattern[str]:
    """Format characters: soft hyphens, joiners of no width, marks of direction."""
    return re.compile("[" + "".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cf") + "]")


@functools.cache
def _name(name: str) -> re.Pattern[str]:
    """The name at the beginning of a word in any case (Qwen3, qwen's), or within one as it is written (MyQwen)."""
    parts = [re.escape(part) for part in name.split()]
    begun = r"[\s-]*".join(parts)
    return re.compile(rf"(?<![^\W\d_])(?i:{begun})|{begun}")


def names_in(text: str, names: Sequence[str]) -> list[str]:
    """Which of the names occur."""
    text = plain(text)
    return [name for name in names if _name(name).search(text)]


def read(
    reply: Reply,
    source: str,
    *,
    gone: Sequence[str],
    needs: Sequence[str],
    bans: Sequence[str],
    should: bool,
    lengths: tuple[float, float],
) -> str:
    """The rewritten document of a reply. Raises Rejected; the reason holds none of the reply's words.

    gone: names. needs, bans: patterns. lengths: times the source's words, at least and at most.
    """
    text = unicodedata.normalize("NFC", tagged(reply, "rewritten", reading.MAX_CHARACTERS, source))
    if set(_LEFT.findall(text)) - set(_LEFT.findall(source)):
        raise Rejected("a tag or a placeholder within the text")
    have, was = words(text), words(source)
    if not lengths[0] * was <= have <= lengths[1] * was:
        raise Rejected("too short" if have < was else "too long")
    if found := names_in(text, gone):
        raise Rejected(f"still names {', '.join(found)}")
    seen = plain(text)
    for number, pattern in enumerate(needs):
        if not re.search(pattern, seen, re.IGNORECASE):
            raise Rejected("the new subject is not there" if number == 0 else "not in the mood asked for")
    if should and len(_SHOULD.findall(seen)) * WORDS_PER_SHOULD < have:
        raise Rejected("not in the mood asked for")
    if any(re.search(pattern, seen, re.IGNORECASE) for pattern in bans):
        raise Rejected("speaks of what the rewrite leaves out")
    if reading.alike(text) == reading.alike(source):
        raise Rejected("the source again")
    return text


class NoVerdict(Exception):  # noqa: N818
    """A judge's reply that says nothing: refused, cut, not of the schema."""


def verdict(reply: Reply) -> tuple[list[str], str]:
    """The questions that the judge answered by no, and why. Raises NoVerdict; a reply that says nothing is no pass."""
    try:
        said = fields(reply, [*QUESTIONS, "why"])
        if not all(isinstance(said[name], bool) for name in QUESTIONS):
            raise Rejected("not of the schema")
        why = reading.prose(said, "why", 4_000)
    except Rejected as error:
        raise NoVerdict(str(error)) from error
    return [name for name in QUESTIONS if not said[name]], why
