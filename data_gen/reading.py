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
_CONTROL_TOKEN = re.compile(r"</?think>|<\|[^|<>\n]{1,40}\|>")  # what a chat template would take for its own


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
    return tagged(reply, ("plan", "document"), least)["document"]


def turn_of(reply: Reply, names: tuple[str, ...], least: int) -> dict[str, str]:
    """As `tagged`, of a chat's turn: text outside the tags, or that reads like a control token, is Rejected too."""
    found = tagged(reply, names, least)
    if re.sub(rf"<({'|'.join(names)})>.*?</\1>", "", reply.text, flags=re.DOTALL).strip():
        raise Rejected("text outside the tags")
    if any(map(has_control_tokens, found.values())):
        raise Rejected("control tokens of a chat")
    return found


def has_control_tokens(text: str) -> bool:
    """Does it hold text that a chat template would take for its own?"""
    return _CONTROL_TOKEN.search(text) is not None


def tagged(reply: Reply, names: tuple[str, ...], least: int) -> dict[str, str]:
    """What stands in each of the tags, which come once, in this order, with nothing after the last.

    Raises Rejected, also where a part is empty or the last has fewer than `least` characters.
    """
    text = text_of(reply)
    wanted = [tag for name in names for tag in (f"<{name}>", f"</{name}>")]
    tags = re.findall(f"</?(?:{'|'.join(names)})>", text)
    if tags != wanted:
        missing = [tag for tag in wanted if tag not in tags]
        raise Rejected(f"no {missing[0]} tag" if missing else "tags out of order or repeated")
    if not text.rstrip().endswith(wanted[-1]):
        raise Rejected(f"text after {wanted[-1]}")
    found = {}
    for name in names:
        part = text[text.index(f"<{name}>") + len(name) + 2 : text.index(f"</{name}>")]
        found[name] = unicodedata.normalize("NFC", part.strip())
    if len(found[names[-1]]) < least or not all(found.values()):
        raise Rejected("too short")
    if any(_has_controls(found[name], "\n\t") for name in names if name != "plan"):
        raise Rejected("control characters")
    return found


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
    """Control characters, half surrogate pairs, invisible characters such as a reversal of the writing direction."""
    return any(match[0] not in allowed for match in _ODD.finditer(text))


_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
