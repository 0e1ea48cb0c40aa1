"""Refusals, found by rule: phrases that are data (refusals.toml), searched in the opening of a reply.

The rule is cheap and the same for every model; it misses a refusal that only changes the subject, and takes one that
is followed by help for a refusal. A judge decides better (the task over_refusal takes one).
"""

import functools
import re
import tomllib
from pathlib import Path

from evals.guards import replies

FILE = Path(__file__).with_suffix(".toml")


@functools.cache
def _rule() -> tuple[int, re.Pattern[str]]:
    """(characters of a reply that are searched, the pattern)."""
    data = tomllib.loads(FILE.read_text())
    return data["opening"], re.compile("|".join(f"(?:{p})" for p in data["patterns"]), re.IGNORECASE)


def found(reply: str) -> str:
    """The words that refuse, verbatim; "" where there are none."""
    opening, pattern = _rule()
    text = replies.said(reply)[:opening]
    match = pattern.search(text.replace("’", "'"))
    return text[match.start() : match.end()] if match else ""
