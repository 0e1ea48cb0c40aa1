"""The shapes that rows of datasets have, and how a row of each becomes a chat: one table, SHAPES.

Adding a shape is adding a function and an entry. What the chat may hold is not decided here: every result goes through
data_gen.import_hf's checks.
"""

import dataclasses
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_gen.import_hf import RejectError, taken

CHOICES = Path(__file__).with_name("choices.toml")
_WORDS: dict[str, Any] = tomllib.loads(CHOICES.read_text())
VARIANTS = tuple(_WORDS["variant"])
LETTERS = "ABCDEFGHIJ"
Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Shape:
    """columns: what it reads, by the names that a recipe may map. chat: (their values, draw, variant) → messages, or
    RejectError. varies: does it take a variant?"""

    columns: tuple[str, ...]
    chat: Callable[[dict[str, Any], random.Random, str], Any]
    varies: bool = False


def _messages(row: dict[str, Any], _: random.Random, __: str) -> Any:
    return row["messages"]


def _pair(row: dict[str, Any], _: random.Random, __: str) -> Any:
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    return [{"role": "system", "content": row["system"]}, *turns] if row.get("system") else turns


def _turns(row: dict[str, Any], _: random.Random, __: str) -> Any:
    said = row["turns"]
    if not isinstance(said, list):
        raise RejectError("no list of turns")
    said = said[: len(said) // 2 * 2]  # a question nobody answered is left out
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def _choices(row: dict[str, Any], draw: random.Random, variant: str) -> Any:
    question, texts, right = row["question"], row["choices"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise RejectError("no question")
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(LETTERS):
        raise RejectError(f"not from 2 to {len(LETTERS)} choices")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RejectError("a choice that is no text")
    texts = [text.strip() for text in texts]
    if len(set(texts)) < len(texts):
        raise RejectError("two equal choices")
    if isinstance(right, str):
        right = LETTERS.find(right.strip().upper()) if len(right.strip()) == 1 else -1
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(texts):
        raise RejectError("an answer that is none of the choices")
    if variant == "binary":
        wrong = draw.choice([i for i in range(len(texts)) if i != right])
        kept = draw.sample([right, wrong], 2)
        texts, right = [texts[i] for i in kept], kept.index(right)
    words = _WORDS["variant"][variant]
    option = draw.choice(_WORDS["option"])
    options = "\n".join(_put(option, letter=LETTERS[i], text=text) for i, text in enumerate(texts))
    count = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")[len(texts) - 2]
    asked = _put(draw.choice(_WORDS["ask"]), question=question.strip(), options=options, count=count)
    say = draw.choice(words["say"])
    answer = _put(draw.choice(words["answer"]), letter=LETTERS[right], text=texts[right])
    return [
        {"role": "user", "content": asked + ("\n\n" + say.strip() if say else "")},
        {"role": "assistant", "content": answer},
    ]


def _put(template: str, **values: str) -> str:
    """Each {name} of the template by its value, in one pass: what is put in is no template."""
    parts = template.split("{")
    text = parts[0]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        text += values[name] + rest
    return text


SHAPES = {
    "messages": Shape(("messages",), _messages),  # [{role, content}, …]
    "pair": Shape(
        ("prompt", "response", "system"), _pair
    ),  # a prompt and its response; a system text where there is one
    "turns": Shape(("turns",), _turns),  # [what the user says, what the assistant says, …]
    "choices": Shape(("question", "choices", "answer"), _choices, varies=True),  # answer: a number from 0, or a letter
    "identity": Shape((), _messages),  # none: made by data_gen.mixing.identity
}


def chat(shape: str, row: dict[str, Any], variant: str, seed: str) -> list[Message]:
    """A row as a chat that ends with the assistant. `row`: the shape's columns. Raises RejectError."""
    known = SHAPES[shape]
    missing = [name for name in known.columns if name not in row and name != "system"]
    if missing:
        raise RejectError(f"no column {missing[0]}")
    messages = known.chat(row, random.Random(seed), variant)
    found: list[Message] = taken({"messages": messages}, "chats", {"messages": "messages", "id": ""}, ())["messages"]
    if found[0]["role"] == "assistant":
        raise RejectError("the assistant speaks first")
    if not any(message["role"] == "user" for message in found):
        raise RejectError("nobody asks")
    return found
