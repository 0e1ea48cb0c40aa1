"""The letter that a reply to a four-choice question chooses, read strictly.

A letter counts where it is all there is ("B", "(B).", "**B**"), where it heads the option's own text ("B) Nitrogen"),
or where it is said to be the answer ("The answer is (B).", "Answer: B"). A capital letter elsewhere is no answer: "A
dog" begins with one. Two different answers are none.
"""

import re
from collections.abc import Sequence

from evals.guards import replies

_WRAP = r"[\s*_(\[\"'“]*"
_END = r"(?:[)\]*_\"'”.,;:!]+|\s*(?:\n|\Z))"  # a letter that goes on as a word or a sentence is none
_ALONE = re.compile(rf"{_WRAP}([A-D])[\s*_)\]\"'”.:]*\Z")
_SAID = re.compile(rf"\banswer(?:\s+is)?\s*:?{_WRAP}([A-D]){_END}", re.IGNORECASE)
_HEAD = re.compile(rf"{_WRAP}([A-D])[)\]*_\s]*[.):\]]?[*_\s]*")


def read(reply: str, options: Sequence[str]) -> tuple[str, str] | None:
    """(letter, the passage that says so), or None.

    Args:
      options: the texts of A to D.
    """
    text = replies.said(reply)
    if match := _ALONE.match(text):
        return match[1], match[0].strip()
    if match := _HEAD.match(text):
        option = options["ABCD".index(match[1])]
        rest = text[match.end() :].split("\n")[0]
        if rest.strip(" .*_\"'”").casefold() == option.strip(" .").casefold():
            return match[1], text.split("\n")[0].strip()
    found = [match for match in _SAID.finditer(text) if match[1].isupper()]
    if len({match[1] for match in found}) == 1:
        return found[-1][1], found[-1][0].strip()
    return None
