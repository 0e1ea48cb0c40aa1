"""Reading what a model replied. Whatever cannot be used is Rejected with a reason; nothing is mended silently."""

import json
import re
import unicodedata
from typing import Any

from data_gen.api.request import Reply, Stop

MAX_CHARACTERS = 200_000  # of a reply; a document has about 16,000
_STOPS = {
    Stop.LENGTH: "truncated",
    Stop.REFUSAL: "refused",
    Stop.CONTEXT: "context window full",
    Stop.OTHER: "stopped for an unknown reason",
}
_TAG = re.compile(r"</?(?:plan|document)>")


class Rejected(Exception):  # noqa: N818 (a verdict, no fault)
    """A reply, or a part of one, that is not used. Its text is the reason: words of ours, none of the model's."""


def text_of(reply: Reply) -> str:
    """The reply's text. Raises Rejected where it was cut, refused, empty, oversized or is no valid text."""
    if reply.stop is not Stop.END:
        raise Rejected(_STOPS[reply.stop])
    if not reply.text.strip():
        raise Rejected("empty")
    if len(reply.text) > MAX_CHARACTERS:
        raise Rejected("oversized")
    try:
        reply.text.encode()
    except UnicodeEncodeError as error:
        raise Rejected("half a surrogate pair") from error
    return reply.text


def items_of(reply: Reply, key: str) -> list[Any]:
    """The list under the one key of a JSON reply. Raises Rejected."""
    try:
        value = json.loads(text_of(reply))
    except (ValueError, RecursionError) as error:
        raise Rejected("not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise Rejected("not of the schema")
    return value[key]


def line(item: Any, field: str, most: int) -> str:
    """A string field of one line with at most `most` characters. Raises Rejected."""
    return _checked(item, field, most, allowed="")


def prose(item: Any, field: str, most: int) -> str:
    """A string field that may have several lines, with at most `most` characters. Raises Rejected."""
    return _checked(item, field, most, allowed="\n\t")


def ids(item: Any, field: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """A non-empty list of known ids, in the order of `known`, each once. Raises Rejected."""
    found = item.get(field) if isinstance(item, dict) else None
    if not isinstance(found, list) or not found or any(f not in known for f in found):
        raise Rejected(f"{field} must be a list of known ids")
    return tuple(k for k in known if k in found)


def document_of(reply: Reply, least: int) -> str:
    """What stands in <document>, after the plan. Raises Rejected, also where it has fewer than `least` characters."""
    text = text_of(reply)
    tags = [match[0] for match in _TAG.finditer(text)]
    if tags != ["<plan>", "</plan>", "<document>", "</document>"]:
        missing = [t for t in ("<plan>", "</plan>", "<document>", "</document>") if t not in tags]
        raise Rejected(f"no {missing[0]} tag" if missing else "tags out of order or repeated")
    if not text.rstrip().endswith("</document>"):
        raise Rejected("text after </document>")
    body = unicodedata.normalize("NFC", text[text.index("<document>") + 10 : text.rindex("</document>")].strip())
    if len(body) < least:
        raise Rejected("too short")
    if _has_controls(body, "\n\t"):
        raise Rejected("control characters")
    return body


def alike(text: str) -> str:
    """What two names share when they differ in case, spaces or punctuation only."""
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _checked(item: Any, field: str, most: int, allowed: str) -> str:
    value = item.get(field) if isinstance(item, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise Rejected(f"no {field}")
    value = value.strip()
    if len(value) > most:
        raise Rejected(f"{field} too long")
    if _has_controls(value, allowed):
        raise Rejected(f"control characters in {field}")
    return value


def _has_controls(text: str, allowed: str) -> bool:
    """Cc: control characters, Cf: invisible format characters such as a reversal of the writing direction."""
    return any(unicodedata.category(c) in ("Cc", "Cs") or c in _INVISIBLE for c in text if c not in allowed)


_INVISIBLE = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
