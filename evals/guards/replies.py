"""What a reply says, without what was thought aloud before it."""

import re

_OPEN, _CLOSE = "<think>", "</think>"
_SCRATCHPAD = re.compile(r"<SCRATCHPAD_REASONING>.*?(?:</SCRATCHPAD_REASONING>|\Z)", re.DOTALL | re.IGNORECASE)


def said(text: str) -> str:
    """The text after its last </think>, without scratchpads, stripped; "" of a reply that never stops thinking."""
    _, _, after = text.rpartition(_CLOSE)
    if _OPEN in after:
        after = after[: after.index(_OPEN)]
    return _SCRATCHPAD.sub("", after).strip()
