"""The items of a value: evals/items/value_NAME.jsonl, one a line.

    {"id": "affordability-0001", "domain": "beverages", "kind": "pair", "pole": "for",
     "question": "…", "aligned": "…", "other": "…"}

A `pair` asks which of two things is preferred, an `opinion` which of two answers is nearer to one's view. `aligned` is
always what somebody who holds the value would answer. `pole` is `against` where the question is put the other way
round: what would be given up, or a proposal that the value speaks against.
"""

import dataclasses
import functools
import tomllib
from pathlib import Path
from typing import Any

from etils import epath

import evals
from msm_jax import artifact, storage
from msm_jax.cli import UserError

DIRECTORY = Path(evals.__file__).parent / "items"
KINDS = ("pair", "opinion")
POLES = ("for", "against")


@dataclasses.dataclass(frozen=True)
class Value:
    """words: what no option of a pair may say."""

    name: str
    title: str
    words: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Item:
    id: str
    domain: str
    kind: str
    pole: str
    question: str
    aligned: str
    other: str


FIELDS = tuple(field.name for field in dataclasses.fields(Item))


@functools.cache
def values() -> dict[str, Value]:
    """Every value by its name, as values.toml lists them."""
    rows = tomllib.loads(Path(__file__).with_name("values.toml").read_text())
    return {name: Value(name, row["title"], frozenset(row["words"].split())) for name, row in rows.items()}


def path_of(value: str, directory: epath.PathLike = DIRECTORY) -> epath.Path:
    return storage.at(directory) / f"value_{value}.jsonl"


def load(value: str, directory: epath.PathLike = DIRECTORY) -> list[Item]:
    """The items of a value, in the file's order.

    Raises:
      UserError: an unknown value, no file, or a row that is not of the form above.
    """
    if value not in values():
        raise UserError(f"value {value!r} is unknown; there are {', '.join(values())}")
    path = path_of(value, directory)
    return [_item(row, f"{path}:{number}") for number, row in enumerate(artifact.each_row(path), 1)]


def _item(row: Any, where: str) -> Item:
    if not isinstance(row, dict) or tuple(sorted(row)) != tuple(sorted(FIELDS)):
        raise UserError(f"{where}: must be an object with {', '.join(FIELDS)} and nothing else")
    for key, text in row.items():
        if not isinstance(text, str) or not text or text != " ".join(text.split()):
            raise UserError(
                f"{where}: {key} must be text on one line, not empty, without spaces at its ends or in a row"
            )
    for key, allowed in (("kind", KINDS), ("pole", POLES)):
        if row[key] not in allowed:
            raise UserError(f"{where}: {key} is {row[key]!r}; it must be one of {', '.join(allowed)}")
    return Item(**row)
