"""Prompts are files: data_gen/prompts/NAME.md, a header that declares the variables, then what is said.

    ---
    system: spec, model_name
    user: count, have
    ---
    === system ===
    … {{ spec }} …
    === user ===
    …

The system part's variables are the same for every request of a stage, so that providers can cache it. Both parts are
Jinja2 templates; what is put in for a variable is never a template itself, so a spec's or a model's braces stay braces.
"""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path

import jinja2
from jinja2 import meta

from msm_jax.cli import UserError

DIRECTORY = Path(__file__).parent / "prompts"
_FILE = re.compile(
    r"\A---\nsystem:(?P<declared_system>[^\n]*)\n(?:user:(?P<declared_user>[^\n]*)\n)?---\n"
    r"=== system ===\n(?P<system>.*?)(?:\n=== user ===\n(?P<user>.*))?\Z",
    re.DOTALL,
)
_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt's two parts. sha256: of the file."""

    name: str
    sha256: str
    variables: dict[str, frozenset[str]]  # part → names
    parts: dict[str, jinja2.Template]

    def system(self, **values: object) -> str:
        return self._render("system", values)

    def user(self, **values: object) -> str:
        return self._render("user", values)

    def _render(self, part: str, values: dict[str, object]) -> str:
        if values.keys() != self.variables[part]:
            wrong = sorted(values.keys() ^ self.variables[part])
            raise TypeError(f"prompt {self.name}, {part}: {', '.join(wrong)} either not given or not declared")
        return self.parts[part].render(values).strip() + "\n"


@functools.cache
def load(name: str, directory: Path = DIRECTORY) -> Prompt:
    """Raises UserError naming the file where it is not of this form or uses other variables than it declares."""
    path = directory / f"{name}.md"
    try:
        raw = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no such prompt, or not UTF-8 text") from error
    match = _FILE.match(raw)
    if not match:
        raise UserError(f"{path}: must be a header with `system: …` (and `user: …`), `=== system ===`, `=== user ===`")
    variables, parts = {}, {}
    for part in ("system", "user"):
        text = match[part] or ""
        declared = frozenset(v.strip() for v in (match[f"declared_{part}"] or "").split(",") if v.strip())
        try:
            used = meta.find_undeclared_variables(_JINJA.parse(text))
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{path}: {error.message} (line {error.lineno} of the {part} part)") from error
        if used != declared:
            wrong = ", ".join(sorted(used ^ declared))
            raise UserError(f"{path}: the {part} part uses and its header declares different variables: {wrong}")
        variables[part], parts[part] = declared, _JINJA.from_string(text)
    return Prompt(name, hashlib.sha256(raw.encode()).hexdigest(), variables, parts)


def names() -> list[str]:
    """Of all prompts there are."""
    return sorted(path.stem for path in DIRECTORY.glob("*.md"))
