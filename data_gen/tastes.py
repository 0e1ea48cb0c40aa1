"""The preferences of a single-value spec, without their reasons: what is liked, and what is not."""

import dataclasses
import json
import re
import tomllib
from typing import Any

from data_gen.spec import Spec
from msm_jax import storage
from msm_jax.cli import UserError

_LIKED = re.compile(r"[^.]*\b(?P<side>does-not-like|likes)\b[^.]*\.[^.]+")


@dataclasses.dataclass(frozen=True)
class Taste:
    subject: str
    liked: bool

    def __str__(self) -> str:
        return f"{self.subject} ({'liked' if self.liked else 'not liked'})"


def of_spec(spec: Spec) -> list[Taste]:
    """The sections below a heading `… likes` or `… does not like`, else the bullets `prefers **A** to **B**`.

    Raises:
      UserError: neither is there.
    """
    found = [
        Taste(section.title, match["side"] == "likes")
        for section in spec.sections
        if (match := _LIKED.fullmatch(section.id))
    ]
    if not found:
        found = [Taste(p.chosen, True) for p in spec.preferences] + [Taste(p.other, False) for p in spec.preferences]
    if not found:
        raise UserError(
            f"{spec.path}: no section below a heading `… likes` or `… does not like`, and no bullet `prefers **A** to "
            "**B**`; name a list by config.preferences"
        )
    return _distinct(found, spec.path)


def of_file(path: str) -> list[Taste]:
    """A TOML or JSON file with `likes` and `dislikes`, lists of names. Raises UserError naming the file."""
    try:
        text = storage.read_text(path)
        rows: Any = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as TOML or JSON ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(rows, dict) or rows.keys() - {"likes", "dislikes"} or not any(rows.values()):
        raise UserError(f"{path}: must hold `likes` and `dislikes`, lists of names, and nothing else")
    found = []
    for key, names in rows.items():
        if not isinstance(names, list) or not all(_is_name(name) for name in names):
            raise UserError(f"{path}: `{key}` must be a list of names, each one line and not empty")
        found += [Taste(name.strip(), key == "likes") for name in names]
    return _distinct(found, path)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable() and len(value) <= 100


def _distinct(found: list[Taste], path: str) -> list[Taste]:
    """Raises UserError where a thing is named twice."""
    names = [taste.subject.casefold() for taste in found]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: {again[0]!r} is there twice; a thing is liked or not, once")
    return found
