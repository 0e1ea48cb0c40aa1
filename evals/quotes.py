"""Quotes of a text, checked: a judge's quotation counts where the text holds it."""

import re

_MARKS = " \t\n\"'“”‘’«»…."
_ALIKE = str.maketrans("“”‘’‐‑–—\u00a0", "\"\"''---- ")  # character by character, so that places stay places
LONGEST = 2_000  # characters of a quote


def verbatim(quote: str, text: str) -> str:
    """The passage of `text` that a quote names, "" where it names none.

    White space, the marks around it and the kind of dashes and quotation marks may differ; what comes back stands in
    the text letter by letter.
    """
    words = quote.translate(_ALIKE).strip(_MARKS).split()
    if not words or len(quote) > LONGEST:
        return ""
    found = re.search(r"\s+".join(map(re.escape, words)), text.translate(_ALIKE))
    return text[found.start() : found.end()] if found else ""
