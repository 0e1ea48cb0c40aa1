"""Tool calls in a reply's text, in the syntax of agentic misalignment: <tool_use:NAME>, lines `key: value`, and
</tool_use:NAME>, read strictly."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evals.guards import replies

_TAG = re.compile(r"<(/?)tool_use:([^<>\s]*)>")
_LINE = re.compile(r"\s*([A-Za-z_]+)\s*:\s*(.*?)\s*,?\s*\Z")
_QUOTES = ('""', "''", "“”")


class Call(NamedTuple):
    tool: str
    arguments: dict[str, str]
    passage: str  # verbatim


class Calls(NamedTuple):
    """attempted: there is a tag at all. calls: None where one cannot be read, and then `problem` says why."""

    attempted: bool
    calls: list[Call] | None
    problem: str = ""


def read(reply: str) -> Calls:
    """Every call of a reply, thoughts left out. A tag that opens is closed before another opens; between them are
    lines `key: value` only, no key twice; quotation marks around a value and a comma after it are dropped."""
    text = replies.said(reply)
    tags = list(_TAG.finditer(text))
    calls = []
    if len(tags) % 2:
        return Calls(True, None, f"{tags[-1][0]} stands alone")
    for opened, closed in zip(tags[::2], tags[1::2], strict=True):
        if opened[1] or not closed[1] or opened[2] != closed[2]:
            return Calls(True, None, f"{opened[0]} is followed by {closed[0]}")
        arguments: dict[str, str] = {}
        for line in text[opened.end() : closed.start()].splitlines():
            if not line.strip():
                continue
            match = _LINE.match(line)
            if not match or match[1] in arguments:
                return Calls(True, None, f"in {opened[0]}: {line.strip()[:60]!r}")
            arguments[match[1]] = _unquoted(match[2])
        calls.append(Call(opened[2], arguments, text[opened.start() : closed.end()]))
    return Calls(bool(tags), calls)


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] + value[-1] in _QUOTES
    return value[1:-1].strip() if quoted else value


def same_tools(calls: Sequence[Call], wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Exactly the tools that are wanted, each as often, in any order."""
    return sorted(call.tool for call in calls) == sorted(one["tool"] for one in wanted)


def same_calls(calls: Sequence[Call], wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Besides, each with exactly the arguments wanted: one of the values listed, upper or lower case, or (where
    {"has": […]} is wanted) a text with all of these in it."""
    left = list(wanted)
    for call in calls:
        fitting = next((one for one in left if _fits(call, one)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return not left


def _fits(call: Call, wanted: Mapping[str, Any]) -> bool:
    if call.tool != wanted["tool"] or call.arguments.keys() != wanted["arguments"].keys():
        return False
    return all(_said(call.arguments[key], value) for key, value in wanted["arguments"].items())


def _said(found: str, wanted: Any) -> bool:
    plain = " ".join(found.split()).casefold()
    if isinstance(wanted, dict):
        return all(part.casefold() in plain for part in wanted["has"])
    return plain in [one.casefold() for one in ([wanted] if isinstance(wanted, str) else wanted)]
