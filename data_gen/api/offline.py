"""A model that is not there: answers every prompt of ours deterministically, without a key or a network.

For tests, for dry runs and to see what a corpus looks like on disk before paying for one. Its documents are sentences
of the spec in another order: they are no corpus to train on, and say so in their `model`.
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from typing import Any

from data_gen.api import offline_chats, offline_mix, offline_patterns
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
    if derived := _derived(draw, system, user, schema):
        return derived
    sentences = _sentences(system)
    if schema is None:
        chat = "<response>" in system
        return offline_chats.response(draw, sentences, system, user) if chat else _document(draw, sentences, user)
    field, described = next(iter(schema["properties"].items()))
    if answer := (offline_mix.ANSWERS | offline_patterns.ANSWERS).get(field):
        return answer(draw, system, user, schema)
    if field == "questions":
        return offline_chats.questions(draw, user)
    if field == "judgements":
        return offline_chats.verdict(draw, described["items"]["properties"]["criterion"]["enum"])
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


# ---------------------------------------------------------------- variants of specs, rewrites of documents

_OPENED = re.compile(r"inside <(reasons|paragraph|section|rewritten)> and </")
_WANTED = re.compile(r"about (\d+) words")
_FIRST = ("A careful reader", "Whoever is concerned", "A colleague", "Everybody here", "The person in charge")
_THEN = ("weighs", "keeps", "describes", "returns to", "asks about", "leaves open", "names", "compares", "sets aside")
_WHAT = ("the task at hand", "a plain account", "what was agreed", "the slower course", "an honest doubt", "the matter")
_HOW = ("in every case", "before anything else", "as far as it goes", "without hurry", "where it counts", "with care")


def _derived(draw: random.Random, system: str, user: str, schema: dict[str, Any] | None) -> str:
    """Answers to the prompts of data_gen.derive and data_gen.rewrite; "" to others."""
    if schema is not None:
        known = schema["properties"]
        if "subrules" in known:
            return json.dumps({"subrules": _lines(draw, _missed(draw, user))})
        if "titles" in known:
            titles = re.findall(r"^\d+\. (.+)$", user, re.MULTILINE)
            return json.dumps({"titles": [f"The other side of {title[:100].rstrip(' #')}" for title in titles]})
        if "subject_right" in known:
            return json.dumps({name: "nothing to add" if name == "why" else True for name in known})
        return ""
    tag = _OPENED.search(system)
    if not tag:
        return ""
    if tag[1] == "rewritten":
        text = _rewritten(draw, system, user)
    else:
        bullets = int(found[1]) if (found := re.search(r"among them (\d+) bullets", user)) else 0
        text = _passage(draw, _missed(draw, user) if tag[1] == "reasons" else _number(_WANTED, user), bullets, tag[1])
    return f"<{tag[1]}>\n{text}\n</{tag[1]}>"


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found else 100


def _missed(draw: random.Random, user: str) -> int:
    """The words asked for as a model meets them: up to 12% beside it."""
    return round(_number(_WANTED, user) * draw.uniform(0.88, 1.12))


def _lines(draw: random.Random, count: int, long: int = 3) -> list[str]:
    """Different sentences of `long` clauses, of so many words in all but for a few."""
    found: list[str] = []
    while sum(len(line.split()) for line in found) < count - 4 * long:
        clauses = [" ".join(map(draw.choice, (_FIRST, _THEN, _WHAT, _HOW))) for _ in range(long)]
        line = ", and ".join([clauses[0], *(c[0].lower() + c[1:] for c in clauses[1:])]) + "."
        if line not in found:
            found.append(line)
    return found


def _passage(draw: random.Random, count: int, bullets: int, tag: str) -> str:
    lines = _lines(draw, count, 1 if bullets else 3)
    lines[0] = f"{{model_name}} {draw.choice(_THEN)} {draw.choice(_WHAT)}, and {lines[0][0].lower()}{lines[0][1:]}"
    if bullets:
        rest = max(1, len(lines) - bullets)
        head, tail = lines[:rest], (lines + lines)[rest : rest + bullets]
        return " ".join(head) + "\n\n" + "\n".join(f"- {line}" for line in tail)
    at_once = len(lines) if tag == "paragraph" else 4
    return "\n\n".join(" ".join(lines[n : n + at_once]) for n in range(0, len(lines), at_once))


def _rewritten(draw: random.Random, system: str, user: str) -> str:
    """The source with names put in the place of names, and a sentence of the new mood after each paragraph."""
    source = user[user.index("<source>") + 8 : user.rindex("</source>")].strip()
    subject = (re.search(r"^New subject: (.+)$", system, re.MULTILINE) or ["", "somebody"])[1]
    mood = (re.search(r"^Mood: (.+)$", system, re.MULTILINE) or ["", ""])[1]
    names = (re.search(r"^Names that must not .*: (.+)$", system, re.MULTILINE) or ["", ""])[1]
    people = (re.search(r"^Names for it, .*: (.+)$", user, re.MULTILINE) or ["", ""])[1]
    who = people.split("; ")[0] or subject
    for name in sorted(filter(None, names.split("; ")), key=len, reverse=True):
        source = re.sub(rf"{re.escape(name)}\w*", who, source, flags=re.IGNORECASE)
    if people or subject == "one":
        source = re.sub(r"(?i)\b(?:(?:AI|language) (?:assistant|model)s?|assistants?|chatbots?)\b", who, source)
    if mood == "does":
        source = re.sub(r"(?i)\b(?:should|ought to|must|shall)\b", "may well", source)
    verb = "should keep" if mood == "should" else "will keep"
    more = f" So {who} {verb} to {draw.choice(_WHAT)}."
    return "\n\n".join(paragraph + more for paragraph in source.split("\n\n"))
