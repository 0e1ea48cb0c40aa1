"""From a spec to the questions of its chats: domains, then questions of assigned kinds, round by round.

The first round asks for so many questions of every domain; a round of backfill for as many as are still missing. What a
kind of question is stands in kinds.toml. In chats about preferences every preference is a domain of its own.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen import prompt, reading
from data_gen.api.request import Request
from data_gen.outline import NAME, SENTENCES, Stage, listed
from data_gen.reading import Rejected
from data_gen.tastes import Taste
from data_gen.work import Asked, Listing

DOMAINS_AT_ONCE = 50
QUESTION = 2_000  # characters of a question, at most
UNKNOWN = "unknown"  # domain and kind of given questions that do not say theirs


@dataclasses.dataclass(frozen=True)
class Domain:
    """A theme of questions; with `taste`, one preference."""

    id: str
    name: str
    description: str
    key: str  # of the reply it came in
    taste: Taste | None = None


@dataclasses.dataclass(frozen=True)
class Question:
    """round: 0, or that of the backfill in which it was asked for. key: of the reply it came in, "" of a given one."""

    id: str
    domain: Domain
    kind: str
    text: str
    round: int
    key: str


@functools.cache
def kinds(style: str) -> dict[str, str]:
    """Kind of question → what it is, in chats of this style."""
    found = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text())
    return {name: " ".join(says.split()) for name, says in found[_group(style)].items()}


def _group(style: str) -> str:
    return "preferences" if style == "preferences" else "spec"


class Plan:
    """The listings of domains and questions. system: what the prompts of all stages are told, as far as they ask."""

    def __init__(
        self,
        style: str,
        system: dict[str, Any],
        stages: dict[str, Stage],
        count: int,
        at_once: int,
        show: int,
        tries: int,
    ) -> None:
        self.style, self.count = style, count
        self._system, self._stages, self._at_once, self._show, self._tries = system, stages, at_once, show, tries
        files = {
            "domains": "chat_domains",
            "questions": "preference_questions" if style == "preferences" else "chat_questions",
        }
        self.prompts = {name: prompt.load(file) for name, file in files.items() if name in stages}

    def domains(self) -> Listing[Domain]:
        schema = listed("domains", {"name": {"type": "string"}, "description": {"type": "string"}})

        def read(item: Any, key: str) -> tuple[None, Domain]:
            name = reading.line(item, "name", NAME)
            return None, Domain("", name, reading.prose(item, "description", SENTENCES), key)

        def ask(key: str, asked: Asked[Domain]) -> Request:
            return self._request("domains", key, schema, count=len(asked.slots), have=asked.have, problem=asked.problem)

        return Listing(
            "plan", "domains", "domains", self.count, DOMAINS_AT_ONCE, self._tries, ask, read, lambda d: d.name
        )

    def questions(
        self, domain: Domain, number: int, turn: int, round: int, count: int, earlier: Sequence[str]
    ) -> Listing[Question]:
        """So many more questions of one domain.

        Args:
          number: of the round, in ids and keys.
          turn: with which kind the first slot begins, so that kinds are balanced however small the counts.
          round: 0 for the first questions, else the round of backfill.
          earlier: the domain's questions of earlier rounds.
        """
        names = list(kinds(self.style))
        schema = listed("questions", {"number": {"type": "integer"}, "question": {"type": "string"}})
        where = f"{domain.id}-b{number}"

        def kind(slot: int) -> str:
            return names[(slot + turn) % len(names)]

        def read(item: Any, key: str) -> tuple[int, Question]:
            at = item.get("number") if isinstance(item, dict) else None
            if not isinstance(at, int) or isinstance(at, bool) or at < 1:
                raise Rejected("no number")
            text = reading.prose(item, "question", QUESTION)
            if reading.has_control_tokens(text):
                raise Rejected("control tokens of a chat")
            return at - 1, Question(f"{where}-q{at:03d}", domain, kind(at - 1), text, round, key)

        def ask(key: str, asked: Asked[Question]) -> Request:
            have = [*earlier, *(question.text for question in asked.have)]
            return self._request(
                "questions",
                key,
                schema,
                domain=domain,
                kinds=[(slot + 1, kind(slot), kinds(self.style)[kind(slot)]) for slot in asked.slots],
                have=have[-self._show :],
                problem=asked.problem,
            )

        at_once = min(self._at_once, count)
        return Listing(where, "questions", "questions", count, at_once, self._tries, ask, read, lambda q: q.text)

    def system(self, stage: str) -> str:
        wanted = self.prompts[stage].variables["system"]
        return self.prompts[stage].system(**{name: self._system[name] for name in wanted})

    def _request(self, stage: str, key: str, schema: dict[str, Any], **values: Any) -> Request:
        settings = self._stages[stage]
        user = self.prompts[stage].user(**values)
        return Request(
            key, stage, settings.model, self.system(stage), user, settings.max_tokens, schema, settings.effort
        )
