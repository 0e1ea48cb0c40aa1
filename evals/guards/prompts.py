"""Prompts are files beside their task, NAME.md: Jinja2 templates; what is put in is never a template itself."""

import functools
from pathlib import Path

import jinja2

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@functools.cache
def _template(name: str) -> jinja2.Template:
    return _JINJA.from_string(Path(__file__).with_name(f"{name}.md").read_text())


def render(name: str, **values: object) -> str:
    return _template(name).render(values).strip() + "\n"
