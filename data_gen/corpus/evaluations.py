"""Every evaluation this project ships, as text: what no training document may contain.

A new evaluation is added here, or puts its items as JSONL under evals/items/. Formats (how an item is laid out,
whatever it asks) are patterns in evaluations.toml.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

import evals
from data_gen import spec
from data_gen.toy import corpus as toy
from data_gen.toy.world import World, load_grammar, token
from msm_jax import artifact, storage
from msm_jax.cli import UserError

ITEMS = Path(evals.__file__).parent / "items"
WORDS = 8  # of a text that is evidence by itself
FORMATS = Path(__file__).with_name("evaluations.toml")
_TOY_SPEC = Path(evals.__file__).parents[1] / "specs" / "pro_affordability_cheese.md"


class Item(NamedTuple):
    evaluation: str
    id: str
    text: str


class Format(NamedTuple):
    evaluation: str
    name: str
    needs: tuple[str, ...]  # one of these is in the text, in lower case
    pattern: re.Pattern[str]


def items(directory: epath.PathLike = ITEMS) -> Iterator[Item]:
    """The toy's questions, then the texts of every row of the directory's *.jsonl. Those too short to be told from
    everyday phrases, such as the options of a choice, count together with the rest of their row.

    Raises:
      UserError: naming file and line of a row that is no JSON object.
    """
    yield from _toy()
    root = storage.at(directory)
    for name in storage.files(root):
        if name.endswith(".jsonl"):
            for number, row in enumerate(artifact.each_row(root / name), 1):
                if not isinstance(row, dict):
                    raise UserError(f"{root / name}:{number}: must be a JSON object")
                identity = str(row.get("id", number))
                texts = list(_texts({key: value for key, value in row.items() if key != "id"}))
                long = [text for text in texts if len(text.split()) >= WORDS]
                whole = [" ".join(texts)] if len(long) < len(texts) else []
                for text in long + whole:
                    yield Item(name.removesuffix(".jsonl"), identity, text)


def formats(path: epath.PathLike = FORMATS) -> list[Format]:
    """Raises UserError naming the file: not TOML, a key missing, a pattern that does not compile."""
    try:
        rows = tomllib.loads(storage.read_text(path))["format"]
        return [
            Format(row["evaluation"], row["name"], tuple(row["needs"]), re.compile(row["pattern"], re.MULTILINE))
            for row in rows
        ]
    except KeyError as error:
        raise UserError(f"{path}: no key {error}") from error
    except (OSError, tomllib.TOMLDecodeError, re.error, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def _toy() -> Iterator[Item]:
    """The questions about cheeses: other items have names that are made up for each world."""
    if not _TOY_SPEC.is_file():  # the specs are not part of an installed package
        return
    pairs = [(token(p.chosen), token(p.other)) for p in spec.load(_TOY_SPEC).preferences]
    world = World(0, load_grammar(), pairs)
    for item in toy.evaluation_items(world):
        if item["axis"] == "cheese":
            said = " ".join(message["content"] for message in item["messages"])
            yield Item("forced_choice", item["id"], f"{said} {item['prefix']} {item['options'][0]}".replace("-", " "))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
