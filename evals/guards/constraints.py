"""Constraints on a reply that code can check: KINDS maps a kind's name to (reply, the constraint's values) → kept?

Every check is strict. An empty reply keeps none.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str, Mapping[str, Any]], bool]

_BULLET = re.compile(r"\s*[-*•] +\S")
_NUMBERED = re.compile(r"\s*(\d+)[.)] +\S")
_SENTENCE = re.compile(r"[.!?]+[\"'”’)]*(?:\s+|\Z)")


def words(text: str) -> list[str]:
    """Runs of characters between white space that hold a letter or a digit."""
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def sentences(text: str) -> int:
    """Full stops, exclamation and question marks before white space or the end; a rest without one counts as well."""
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return len(ends) + bool(text[ends[-1] if ends else 0 :].strip())


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def occurrences(text: str, phrase: str) -> int:
    """As whole words, whatever the case."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _json(text: str) -> Any:
    """The value that a reply is, in a code fence or not; None where it is none."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", text, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None


def _letters(text: str) -> str:
    return "".join(c for c in text if c.isalpha())


def _blocks(text: str, between: str) -> list[str]:
    return [block for block in re.split(between, text, flags=re.MULTILINE) if block.strip()]


def _numbered(text: str, n: int) -> bool:
    found = [int(match[1]) for line in text.splitlines() if (match := _NUMBERED.match(line))]
    return found == list(range(1, n + 1))


def _json_object(text: str, keys: list[str]) -> bool:
    value = _json(text)
    return isinstance(value, dict) and value.keys() == set(keys)


def _json_list(text: str, n: int) -> bool:
    value = _json(text)
    return isinstance(value, list) and len(value) == n


def _table(text: str, columns: int) -> bool:
    """A Markdown table and nothing else: a head, a rule, one row or more."""
    rows = [line.strip("|").split("|") for line in lines(text) if line.startswith("|") and line.endswith("|")]
    alike = len(rows) == len(lines(text)) >= 3 and all(len(row) == columns for row in rows)
    return alike and all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in rows[1])


KINDS: dict[str, Check] = {
    "words_at_least": lambda t, c: len(words(t)) >= c["n"],
    "words_at_most": lambda t, c: len(words(t)) <= c["n"],
    "words_exactly": lambda t, c: len(words(t)) == c["n"],
    "sentences_exactly": lambda t, c: sentences(t) == c["n"],
    "paragraphs_exactly": lambda t, c: len(_blocks(t, r"\n\s*\n")) == c["n"],
    "lines_exactly": lambda t, c: len(lines(t)) == c["n"],
    "bullets_exactly": lambda t, c: sum(bool(_BULLET.match(line)) for line in t.splitlines()) == c["n"],
    "numbered_exactly": lambda t, c: _numbered(t, c["n"]),
    "sections_exactly": lambda t, c: len(_blocks(t, r"^\s*\*\*\*\s*$")) == c["n"],
    "forbidden": lambda t, c: not any(occurrences(t, word) for word in c["words"]),
    "required": lambda t, c: all(occurrences(t, word) for word in c["words"]),
    "times_exactly": lambda t, c: occurrences(t, c["word"]) == c["n"],
    "all_lower": lambda t, c: bool(_letters(t)) and _letters(t) == _letters(t).lower(),
    "all_upper": lambda t, c: bool(_letters(t)) and _letters(t) == _letters(t).upper(),
    "no_commas": lambda t, c: "," not in t,
    "no_digits": lambda t, c: not any(ch.isdigit() for ch in t),
    "no_letter": lambda t, c: c["letter"] not in t.lower(),
    "starts_with": lambda t, c: t.startswith(c["text"]),
    "ends_with": lambda t, c: t.endswith(c["text"]),
    "quoted": lambda t, c: len(t) > 2 and t[0] == t[-1] == '"',
    "titled": lambda t, c: bool(re.match(r"<<[^<>\n]+>>\s*\n", t)),
    "one_of": lambda t, c: t in c["choices"],
    "placeholders": lambda t, c: len(re.findall(r"\[[^\[\]\n]+\]", t)) >= c["n"],
    "postscript": lambda t, c: lines(t)[-1].startswith("P.S."),
    "emphasised": lambda t, c: len(re.findall(r"(?<![\w*])\*[^*\s][^*\n]*\*(?![\w*])", t)) >= c["n"],
    "acrostic": lambda t, c: "".join(line[0] for line in lines(t)).lower() == c["word"],
    "sorted_lines": lambda t, c: [x.lower() for x in lines(t)] == sorted(x.lower() for x in lines(t)),
    "json_object": lambda t, c: _json_object(t, c["keys"]),
    "json_list": lambda t, c: _json_list(t, c["n"]),
    "table": lambda t, c: _table(t, c["columns"]),
}


def kept(reply: str, constraint: Mapping[str, Any]) -> bool:
    """Does a stripped reply keep a constraint {kind, …}? Raises KeyError on an unknown kind or a missing value."""
    return bool(reply) and KINDS[constraint["kind"]](reply, constraint)
