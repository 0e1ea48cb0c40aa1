"""The HTML of a report: one file, with its style sheet, its script and its pictures inside.

Jinja2 escapes everything that is printed. The page's Content-Security-Policy names its one style sheet and its one
script by their hashes, so that nothing else can run, whatever a transcript holds.
"""

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data_gen.corpus.report import visible

HERE = Path(__file__).parent


def number(value: float | None, digits: int = 2) -> str:
    """A dash for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def signed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:+.3f}"


def p_value(value: float | None) -> str:
    """Two digits that count; never 0."""
    if value is None or not math.isfinite(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _shown(value: Any) -> Any:
    """Whatever the page prints goes through here."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> Markup:
    return Markup("'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'")


def picture(png: bytes) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())


def render(**told: Any) -> str:
    """The page, of what evals.report brings together."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"number": number, "signed": signed, "p": p_value, "picture": picture}
    style, script = ((HERE / f"page.{kind}").read_text().strip() for kind in ("css", "js"))
    return environment.get_template("page.html.jinja").render(
        style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script), **told
    )
