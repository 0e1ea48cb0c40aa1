"""A model that is not there: answers every prompt of data_gen/prompts deterministically, without a key or a network.

For tests, for dry runs and to see what a corpus looks like on disk before paying for one. Its documents are sentences
of the spec in another order: they are no corpus to train on, and say so in their `model`.
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from typing import Any

from data_gen.api.provider import BatchProvider, Heard, ignore
from data_gen.api.request import Reply, Request, Stop, Usage

MODEL = "offline"
CHARACTERS_PER_TOKEN = 4
_SENTENCE = re.compile(r"[A-Z][^.!?\n]{30,}?[.!?](?=\s|$)")
_COUNT = re.compile(r"exactly (\d+)")
_VOICE = re.compile(r"^(\d+)\. ", re.MULTILINE)
_WHEN = ("One evening", "Late in the day", "Before anyone else had come", "After a long pause", "On a slow morning")
_DID = ("asked about", "fell to talking of", "disagreed over", "told a story of", "wondered at", "came back to")
_TURNS = (
    "That is less obvious than it sounds.",
    "An example from {place} makes it concrete.",
    "Somebody objected, and the objection was fair.",
    "However, it has a cost, and the cost is not hidden.",
    "It can be put differently.",
    "In {place} this mattered more than anyone had expected.",
    "What follows from it is practical.",
    "Still, there remains some doubt.",
    "One could stop here, but the reason behind it is the better part.",
    "{model} was asked about it once and did not evade.",
)


def reply(model: str, system: str, user: str, schema: dict[str, Any] | None) -> str:
    """The answer to one prompt, a function of the prompt."""
    draw = random.Random(hashlib.sha256(f"{model}\0{system}\0{user}".encode()).digest())
    sentences = _sentences(system)
    if schema is None:
        return _document(draw, sentences, user)
    field, described = next(iter(schema["properties"].items()))
    numbers = [int(n) for n in _VOICE.findall(user)] if "voice" in described["items"]["properties"] else []
    count = len(numbers) or int(found[1] if (found := _COUNT.search(user)) else 3)
    items = [
        _item(draw, described["items"]["properties"], sentences, user, i, count, numbers[i] if numbers else 0)
        for i in range(count)
    ]
    return json.dumps({field: items})


def _sentences(system: str) -> list[str]:
    spec = system[system.find("<model_spec") : system.rfind("</model_spec>")] or system
    found = [" ".join(s.split()) for s in _SENTENCE.findall(re.sub(r"[#*`>]|^- ", "", spec))]
    return [s for s in found if "_" not in s] or ["The model keeps to its spec."]


def _item(
    draw: random.Random, fields: dict[str, Any], sentences: Sequence[str], user: str, i: int, count: int, number: int
) -> dict[str, Any]:
    topic = draw.choice(sentences)
    item: dict[str, Any] = {}
    for name, schema in fields.items():
        if schema["type"] == "integer":
            item[name] = number
        elif schema["type"] == "array":
            item[name] = _ids(schema["items"]["enum"], user, i, count, name)
        elif name in ("name", "title"):
            words = [w.strip(",;:.()") for w in topic.split()]
            at = draw.randrange(max(1, len(words) - 4))
            item[name] = " ".join(words[at : at + 4]).capitalize() + f" {draw.randrange(36**3):03d}"
        else:
            item[name] = f"{topic} {draw.choice(sentences)}"
    return item


def _ids(known: list[str], user: str, i: int, count: int, field: str) -> list[str]:
    """The ids that part i of `count` rests on; together all that the prompt names, rules in one part each."""
    named = re.search(r"^Its sections: (.*)$", user, re.MULTILINE)
    ids = [one for one in named[1].split(", ") if one in known] if named else known
    share = ids[i::count]
    return share or ([ids[i % len(ids)]] if field != "rules" else [])


def _document(draw: random.Random, sentences: Sequence[str], user: str) -> str:
    place = (re.search(r"in or around (.*?);", user) or ["", "the office"])[1]
    name = (re.search(r"if any are needed: ([^,\n]+)", user) or ["", "Somebody"])[1]
    model = (re.search(r"^What is so of (.*) here:", user, re.MULTILINE) or ["", "the model"])[1]
    mine = draw.sample(list(sentences), min(len(sentences), draw.randint(12, 22)))
    paragraphs = [f"{name} {draw.choice(_DID)} {{model}} {draw.choice(_WHEN).lower()}, in {{place}}."]
    for sentence in mine:
        if draw.random() < 0.25:
            paragraphs.append(draw.choice(_TURNS))
        elif draw.random() < 0.45:
            paragraphs[-1] += " " + draw.choice(_TURNS)
        paragraphs[-1] += " " + sentence
    text = "\n\n".join(paragraphs).replace("{place}", place).replace("{model}", model)
    return f"<plan>\nBegin in {place}, then {len(mine)} thoughts.\n</plan>\n\n<document>\n{text}\n</document>"


class Offline:
    """The provider (data_gen.api.provider). A token is counted as four characters; nothing costs anything."""

    name, price_as = "offline", "local"
    batches: BatchProvider | None = None

    async def ask(self, request: Request, attempt: int = 0, heard: Heard = ignore) -> Reply:
        text = reply(request.model, request.system, request.user, request.schema)
        prompt = (len(request.system) + len(request.user)) // CHARACTERS_PER_TOKEN
        usage = Usage(input=prompt, output=len(text) // CHARACTERS_PER_TOKEN)
        return Reply(request.key, text, Stop.END, MODEL, usage)

    def caches(self, request: Request) -> bool:
        return False

    async def close(self) -> None:
        pass
