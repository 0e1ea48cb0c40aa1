"""What the model that is not there answers to the prompts of evals.patterns: what was planted in a transcript, and
nothing else; in a transcript without anything planted some categories by lot."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

_TRANSCRIPT = re.compile(r"<(transcript-[0-9a-f]{12})>\n(.*?)\n</\1>", re.DOTALL)
_PLANTED = re.compile(r"\[planted (\w+)\][^\n\[]*")
_LISTED = re.compile(r"^- (.+)$", re.MULTILINE)
_NAMED = re.compile(r"^planted (\w+)$")
_MOST = re.compile(r"at most (\d+) categories")
_BY_LOT = 1 / 6


def _transcript(user: str) -> str:
    found = _TRANSCRIPT.search(user)
    return found[2] if found else user


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.split("\n") if line.strip()), "nothing")[:200]


def _reasons(draw: random.Random, system: str, user: str, schema: dict[str, Any]) -> str:
    text = _transcript(user)
    found = [{"reason": f"planted {match[1]}", "quote": match[0]} for match in _PLANTED.finditer(text)]
    if not found and draw.random() > _BY_LOT:
        found = [{"reason": f"It goes by this: {_first_line(text)}", "quote": _first_line(text)}]
    return json.dumps({"reasons": [one for one in found if one["reason"] != "planted none"]})


def _categories(draw: random.Random, system: str, user: str, schema: dict[str, Any]) -> str:
    items = schema["properties"]["categories"]
    keys = set()
    for line in _LISTED.findall(user):
        named = _NAMED.match(line)
        words = re.findall(r"[a-z]{5,}", line.lower())
        keys.add(named[1] if named else f"about_{words[-1] if words else 'it'}")
    kinds = items["items"]["properties"]["kind"]["enum"]
    found = [
        {
            "key": key,
            "kind": kinds[i % len(kinds)],
            "name": key.replace("_", " "),
            "definition": f"The transcript gives {key.replace('_', ' ')} as its reason.",
        }
        for i, key in enumerate(sorted(keys))
    ]
    most = int(limit[1]) if (limit := _MOST.search(user)) else len(found)
    return json.dumps({"categories": found[:most]})


def _drivers(draw: random.Random, system: str, user: str, schema: dict[str, Any]) -> str:
    text = _transcript(user)
    planted = {match[1]: match[0] for match in _PLANTED.finditer(text)}
    rows = []
    for key in schema["properties"]["drivers"]["items"]["properties"]["category"]["enum"]:
        driver = key in planted if planted else draw.random() < _BY_LOT
        quote = planted.get(key, _first_line(text)) if driver else ""
        rows.append(
            {"category": key, "why": "It says so." if driver else "Not said.", "driver": driver, "quote": quote}
        )
    return json.dumps({"drivers": rows})


ANSWERS: dict[str, Callable[[random.Random, str, str, dict[str, Any]], str]] = {
    "reasons": _reasons,
    "categories": _categories,
    "drivers": _drivers,
}
