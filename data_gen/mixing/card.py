"""The data card: what is in a mix, where it comes from and what was left out. Markdown, beside the rows."""

from pathlib import Path
from typing import Any

import jinja2

FILE = Path(__file__).with_name("card.md.jinja")
_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


def render(says: dict[str, Any]) -> str:
    """`says`: every variable of card.md.jinja. A cell of a table keeps to its line and column."""
    return _JINJA.from_string(FILE.read_text()).render(_flat(says))


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if not isinstance(key, str) else _flat(key): _flat(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_flat(v) for v in value]
    return " ".join(value.split()).replace("|", "\\|") if isinstance(value, str) else value
