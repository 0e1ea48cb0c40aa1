"""A part of a derived spec that a model writes: asked for, checked, asked for again with what was wrong."""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from data_gen import prompt, reading
from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected
from data_gen.work import Answers
from msm_jax.cli import UserError

T = TypeVar("T")
LONGEST = 40_000  # characters of a part
_PLACEHOLDER = re.compile(r"\{(?:model_name|provider_name)\}")
_STRUCTURE = re.compile(r" {0,3}(?:#{1,6}(?:\s|$)|`{3,}|~{3,}|[=-]{2,}[ \t]*$)")
_RULE = re.compile(r"\s*(?:[-*+] )?\*{0,2}[A-Z]{1,6}\d+(?:[.:]|\.\d+)[ \t]")
_TAG = re.compile(r"</?[a-z_]+>")


@dataclasses.dataclass(frozen=True)
class Asking:
    """Who is asked. max_tokens: of a reply, thoughts included."""

    model: str
    max_tokens: int
    effort: str

    def request(
        self,
        key: str,
        stage: str,
        name: str,
        system: dict[str, Any],
        user: dict[str, Any],
        schema: dict[str, Any] | None = None,
    ) -> Request:
        """A question by the prompt of this name."""
        file = prompt.load(name)
        said = file.system(**system), file.user(**user)
        return Request(key, stage, self.model, *said, self.max_tokens, schema, self.effort)


@dataclasses.dataclass(frozen=True)
class Told(Generic[T]):
    """Where a part stands. value: None where there is none (yet). asked: the keys of its questions."""

    value: T | None
    reply: Reply | None
    rejects: collections.Counter[str]
    asked: tuple[str, ...]
    next: Request | None


@dataclasses.dataclass(frozen=True)
class Part(Generic[T]):
    """request: (key, what was wrong with the reply before) → the question. read: raises Rejected."""

    id: str
    stage: str
    tries: int
    request: Callable[[str, str], Request]
    read: Callable[[Reply], T]

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).next

    def replay(self, answers: Answers) -> Told[T]:
        rejects: collections.Counter[str] = collections.Counter()
        asked: list[str] = []
        problem = ""
        for number in range(self.tries):
            key = f"{self.stage}_{self.id}_a{number}"
            reply = answers(key)
            if reply is None:
                return Told(None, None, rejects, tuple(asked), self.request(key, problem))
            asked.append(key)
            try:
                return Told(self.read(reply), reply, rejects, tuple(asked), None)
            except Rejected as error:
                problem = counted(rejects, str(error))
        return Told(None, None, rejects, tuple(asked), None)


def counted(rejects: collections.Counter[str], reason: str) -> str:
    """Counts a reason. Returns it as the next question says it: no two questions about one thing are the same."""
    rejects[reason] += 1
    return reason if rejects[reason] == 1 else f"{reason} ({rejects[reason]} times by now)"


@dataclasses.dataclass(frozen=True)
class One:
    """A single question as a piece of work."""

    request: Request

    @property
    def id(self) -> str:
        return self.request.key

    def next(self, answers: Answers) -> Request | None:
        return None if answers(self.request.key) else self.request


def values(name: str, parts: Iterable[Part[T]], answers: Answers) -> list[T]:
    """What all parts hold. Raises UserError naming those that hold nothing, with the reasons and how often each."""
    found: list[T] = []
    lacking: list[str] = []
    reasons: collections.Counter[str] = collections.Counter()
    count = 0
    for part in parts:
        count += 1
        told = part.replay(answers)
        if told.value is not None:
            found.append(told.value)
            continue
        lacking.append(part.id)
        reasons += told.rejects or collections.Counter({"not answered": 1})
    if lacking:
        why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(4))
        raise UserError(
            f"{name}: {len(lacking)} of {count} parts could not be used ({', '.join(lacking[:5])}): {why}; raise "
            "config.tries to ask again, or name another model"
        )
    return found


# ---------------------------------------------------------------- reading


def tagged(reply: Reply, tag: str, longest: int = LONGEST, known: str = "") -> str:
    """What stands between <tag> and </tag>, around which there is nothing. Raises Rejected, also where there are tags
    within it other than those that are in the text `known`."""
    text = reading.text_of(reply).strip()
    opened, closed = f"<{tag}>", f"</{tag}>"
    if not text.startswith(opened) or not text.endswith(closed):
        raise Rejected(f"not in {opened} and {closed} alone")
    body = text[len(opened) : -len(closed)]
    if {opened, closed} & set(found := _TAG.findall(body)) or set(found) - set(_TAG.findall(known)):
        raise Rejected("tags within the text")
    return reading.prose({"text": body}, "text", longest)


def fields(reply: Reply, names: Iterable[str]) -> dict[str, Any]:
    """A JSON object that has exactly these fields. Raises Rejected."""
    try:
        value = json.loads(reading.text_of(reply))
    except (ValueError, RecursionError) as error:
        raise Rejected("not JSON") from error
    if not isinstance(value, dict) or value.keys() != set(names):
        raise Rejected("not of the schema")
    return value


def schema(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STRING: dict[str, Any] = {"type": "string"}
STRINGS: dict[str, Any] = {"type": "array", "items": STRING}


def check_passage(text: str) -> str:
    """A passage that can stand in a spec: it opens no heading, rule or code, and has no brace but the placeholders'.

    Raises Rejected.
    """
    left = _PLACEHOLDER.sub("", text)
    if "{" in left or "}" in left:
        raise Rejected("braces other than {model_name} and {provider_name}")
    if "model_name" in left or "provider_name" in left:
        raise Rejected("a placeholder without its braces")
    lines = text.split("\n")
    if any(_STRUCTURE.match(line) for line in lines):
        raise Rejected("a heading, a line of signs or code within the text")
    if any(_RULE.match(line) for line in lines):
        raise Rejected("a numbered rule within the text")
    return text


def is_listed(line: str) -> bool:
    """Is the line an item of a list?"""
    return bool(re.match(r"\s*(?:[-*+•]|\d+[.)])\s", line))
