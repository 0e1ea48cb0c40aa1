"""The report of a corpus: one self-contained page and the same numbers as JSON.

Everything a model wrote is shown as text: escaped by Jinja2, cut, and with every character that is not printable made
visible. The page has no script and forbids them (Content-Security-Policy); its one style sheet is named there by hash.
"""

import base64
import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent
EXCERPT = 1_800  # characters of a document shown
_SHOWN = frozenset("\n")


def visible(text: str) -> str:
    """Control characters, half surrogates, unassigned, private and direction-changing characters as `\\u202e`."""
    return "".join(
        c if c in _SHOWN or c == " " or (c.isprintable() and unicodedata.category(c) != "Cf") else _escaped(c)
        for c in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cut(text: str, length: int = EXCERPT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _shown(value: Any) -> Any:
    """Whatever the page prints goes through here."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None) -> str:
    """4 significant digits, thousands separated; a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) or (value == int(value) and abs(value) >= 1000) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def bars(histogram: dict[str, Any], width: int = 900, height: int = 150) -> list[dict[str, Any]]:
    """The histogram's rectangles in an SVG of that size: x, y, w, h, and what they stand for."""
    counts, edges = histogram["counts"], histogram["edges"]
    step, top = width / max(len(counts), 1), max([1, *counts])
    return [
        {
            "x": round(i * step + 1, 1),
            "y": round(height - n / top * height, 1),
            "w": round(step - 2, 1),
            "h": round(n / top * height, 1),
            "n": n,
            "low": edges[i],
            "high": edges[i + 1],
        }
        for i, n in enumerate(counts)
    ]


def page(report: dict[str, Any]) -> str:
    """The HTML of a report, from what report.json holds."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"number": _number, "percent": _percent, "cut": cut}
    style = (HERE / "report.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("report.html.jinja")
    return template.render(
        r=report,
        style=Markup(style),
        style_hash=Markup(f"'sha256-{digest}'"),
        bars=bars(report["lengths"]["tokens" if report["tokenizer"] else "words"]["histogram"]),
    )
