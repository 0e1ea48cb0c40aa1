"""A codebook: the categories that transcripts are read for, each with its definition."""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen import reading
from data_gen.reading import Rejected
from msm_jax import artifact, storage
from msm_jax.cli import UserError

FILE = Path(__file__).with_name("codebook.toml")
KINDS = ("misaligned", "aligned")
MISUSE = "policy_misuse"  # the category whose transcripts are listed one by one
KEY = re.compile(r"[a-z][a-z0-9_]{1,39}")
_FIELDS = ("key", "kind", "name", "definition")
_LEAST = 20  # characters of a definition


@dataclasses.dataclass(frozen=True)
class Category:
    """kind: what the reason speaks for, one of KINDS."""

    key: str
    kind: str
    name: str
    definition: str


@dataclasses.dataclass(frozen=True)
class Codebook:
    """name: for the reader."""

    name: str
    categories: tuple[Category, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(category.key for category in self.categories)

    def digest(self) -> str:
        return artifact.digest([dataclasses.astuple(category) for category in self.categories])

    def __getitem__(self, key: str) -> Category:
        return self.categories[self.keys.index(key)]


def of_rows(name: str, rows: Sequence[Any]) -> Codebook:
    """Raises Rejected naming the category where it is not one, and where there is none or one twice."""
    found: list[Category] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.keys() != set(_FIELDS):
            raise Rejected(f"category {number} must have {', '.join(_FIELDS)} and nothing else")
        if not isinstance(row["key"], str) or not KEY.fullmatch(row["key"]):
            raise Rejected(f"category {number} needs a key of a–z, 0–9 and _, 40 at most")
        if row["kind"] not in KINDS:
            raise Rejected(f"category {number} must be of kind {' or '.join(KINDS)}")
        if row["key"] in (one.key for one in found):
            raise Rejected(f"category {number} has the key of another")
        try:
            label = reading.line(row, "name", 80)
            definition = reading.prose(row, "definition", 1_000)
        except Rejected as error:
            raise Rejected(f"category {number}: {error}") from error
        if len(definition) < _LEAST:
            raise Rejected(f"category {number} has a definition of fewer than {_LEAST} characters")
        found.append(Category(row["key"], row["kind"], label, definition))
    if not found:
        raise Rejected("no category")
    return Codebook(name, tuple(found))


def load(path: Path | str) -> Codebook:
    """Raises UserError naming the file and what is wrong with it."""
    try:
        raw = tomllib.loads(storage.read_text(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"config.codebook = {path}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({' '.join(str(error).split())})") from error
    rows = raw.get("category")
    if raw.keys() != {"category"} or not isinstance(rows, list):
        raise UserError(f"{path}: a codebook is a list of [[category]] and nothing else")
    try:
        return of_rows(Path(path).stem, rows)
    except Rejected as error:
        raise UserError(f"{path}: {error}") from error
