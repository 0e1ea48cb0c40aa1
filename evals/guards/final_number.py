"""The number that a worked solution ends in.

Read, in this order, after the last "####", after the last "answer:" or "answer is", else as the last number of the
reply; the place that it was read from is said with it. Numbers may have thousands' commas, a decimal point, a sign, a
currency sign, a per cent sign or a fraction's bar; words are not numbers.
"""

import re
from decimal import Decimal
from fractions import Fraction

from evals.guards import replies

_NUMBER = r"[-−]?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?"
_LAST = re.compile(rf"(?<![\w.,/])(?<!\d[-−])({_NUMBER})")
_MARKS = (
    ("####", re.compile(rf"####[\s*$]*({_NUMBER})")),
    ("answer", re.compile(rf"\banswer(?:\s+is)?\s*[:=]?[\s*$]*({_NUMBER})", re.IGNORECASE)),
)


def value(number: str) -> Fraction | None:
    """Its value; None of a fraction with nothing below the bar."""
    top, _, below = re.sub(r"[$€£,\s]", "", number.replace("−", "-")).partition("/")
    if below and not int(below):
        return None
    return Fraction(Decimal(top)) / (int(below) if below else 1)


def read(reply: str) -> tuple[Fraction, str, str] | None:
    """(the number, where it stood: "####", "answer" or "last number", the passage), or None."""
    text = replies.said(reply)
    for where, mark in (*_MARKS, ("last number", _LAST)):
        if found := list(mark.finditer(text)):
            number = value(found[-1][1])
            return None if number is None else (number, where, found[-1][0].strip())
    return None
