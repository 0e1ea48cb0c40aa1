"""A question becomes a chat: a response, then a judge's verdict on it. Both are replayed from answers.

The reply to a question is `<reasoning>…</reasoning><response>…</response>`, in chats about preferences the response
alone. A judge's reply that is refused, cut, malformed or contradicts itself is no verdict: it is counted and asked for
again, and a chat without a verdict is never kept.
"""

import dataclasses
import functools
import json
import re
from typing import Any

from data_gen import prompt, reading, reasons
from data_gen.api.request import Reply, Request
from data_gen.chat_plan import Question
from data_gen.outline import Stage
from data_gen.reading import Rejected
from data_gen.spec import Rule
from data_gen.work import Answers, Told, told

REASON = 2_000  # characters of a judge's reason, at most


@dataclasses.dataclass(frozen=True)
class Said:
    """reasoning: "" in chats about preferences. rules: ids that it cites."""

    reasoning: str
    response: str
    rules: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """judgements: criterion → (passes, the judge's reason)."""

    judgements: dict[str, tuple[bool, str]]

    @property
    def passes(self) -> bool:
        return all(passes for passes, _ in self.judgements.values())

    @property
    def failed(self) -> list[str]:
        return [name for name, (passes, _) in self.judgements.items() if not passes]


@dataclasses.dataclass(frozen=True)
class Asking:
    """How the questions of a data set are answered and judged. suffix: what is appended to the user's turn.

    rules: of the spec, in style `rules`: the reasoning must cite one of them.
    names: of all things that are liked or not.
    """

    style: str
    system: dict[str, Any]
    stages: dict[str, Stage]
    criteria: dict[str, str]
    rules: tuple[Rule, ...]
    names: tuple[str, ...]
    suffix: str
    least: int  # characters of a response
    tries: int

    @functools.cached_property
    def prompts(self) -> dict[str, prompt.Prompt]:
        own = "preference" if self.style == "preferences" else "chat"
        responses = f"{own}_responses" + ("" if self.style == "preferences" else f"_{self.style}")
        return {"responses": prompt.load(responses), "verdicts": prompt.load(f"{own}_verdicts")}

    @functools.cached_property
    def systems(self) -> dict[str, str]:
        """Stage → system prompt."""
        told = self.system | {"criteria": self.criteria}
        return {
            stage: found.system(**{name: told[name] for name in found.variables["system"]})
            for stage, found in self.prompts.items()
        }

    def user_turn(self, question: Question) -> str:
        return question.text + (f" {self.suffix}" if self.suffix else "")

    def read(self, reply: Reply, question: Question) -> Said:
        """Raises Rejected."""
        if question.domain.taste:
            response = reading.turn_of(reply, ("response",), self.least)["response"]
            if found := reasons.find_in_answer(response, question.text, self.names):
                raise Rejected(f"gives a reason ({found[0].kind})")
            return Said("", response)
        found_parts = reading.turn_of(reply, ("reasoning", "response"), self.least)
        said = Said(found_parts["reasoning"], found_parts["response"], self._cited(found_parts["reasoning"]))
        if self.rules and not said.rules:
            raise Rejected("cites no rule")
        return said

    def _cited(self, reasoning: str) -> tuple[str, ...]:
        return tuple(r.id for r in self.rules if re.search(rf"\b{re.escape(r.id)}\b", reasoning))

    def judged(self, reply: Reply) -> Verdict:
        """Raises Rejected where the reply says nothing that could be relied on."""
        try:
            value = json.loads(reading.text_of(reply))
        except (ValueError, RecursionError) as error:
            raise Rejected("not JSON") from error
        if not isinstance(value, dict) or not isinstance(value.get("judgements"), list):
            raise Rejected("not of the schema")
        if not isinstance(value.get("include"), bool):
            raise Rejected("not of the schema")
        found: dict[str, tuple[bool, str]] = {}
        for entry in value["judgements"]:
            name = entry.get("criterion") if isinstance(entry, dict) else None
            if not isinstance(name, str) or name not in self.criteria or not isinstance(entry.get("passes"), bool):
                raise Rejected("not of the schema")
            if name in found:
                raise Rejected("judges a criterion twice")
            found[name] = (entry["passes"], reading.prose(entry, "reason", REASON))
        if len(found) < len(self.criteria):
            raise Rejected("leaves out a criterion")
        verdict = Verdict({name: found[name] for name in self.criteria})
        if value["include"] != verdict.passes:
            raise Rejected("contradicts itself")
        return verdict

    def schema(self) -> dict[str, Any]:
        names = {"type": "string", "enum": list(self.criteria)}
        fields = {"criterion": names, "reason": {"type": "string"}, "passes": {"type": "boolean"}}
        each = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        return {
            "type": "object",
            "properties": {"judgements": {"type": "array", "items": each}, "include": {"type": "boolean"}},
            "required": ["judgements", "include"],
            "additionalProperties": False,
        }

    def request(self, stage: str, key: str, **values: Any) -> Request:
        settings = self.stages[stage]
        user = self.prompts[stage].user(**values)
        schema = self.schema() if stage == "verdicts" else None
        return Request(
            key, stage, settings.model, self.systems[stage], user, settings.max_tokens, schema, settings.effort
        )


@dataclasses.dataclass(frozen=True)
class Answering:
    """The work of one response."""

    asking: Asking
    question: Question

    @property
    def id(self) -> str:
        return self.question.id

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).next

    def replay(self, answers: Answers) -> Told:
        """value: Said"""

        def read(reply: Reply) -> Said:
            return self.asking.read(reply, self.question)

        return told(f"responses_{self.id}", self.asking.tries, answers, read, self._request)

    def _request(self, key: str, problem: str) -> Request:
        turn = self.asking.user_turn(self.question)
        about = {"taste": self.question.domain.taste} if self.asking.style == "preferences" else {}
        return self.asking.request("responses", key, question=turn, problem=problem, **about)


@dataclasses.dataclass(frozen=True)
class Judging:
    """The work of one verdict, on what was said."""

    asking: Asking
    question: Question
    said: Said

    @property
    def id(self) -> str:
        return self.question.id

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).next

    def replay(self, answers: Answers) -> Told:
        """value: Verdict"""
        return told(f"verdicts_{self.id}", self.asking.tries, answers, self.asking.judged, self._request)

    def _request(self, key: str, problem: str) -> Request:
        own = self.asking.style == "preferences"
        about = {"taste": self.question.domain.taste} if own else {"reasoning": self.said.reasoning}
        turn, response = self.asking.user_turn(self.question), self.said.response
        return self.asking.request("verdicts", key, question=turn, response=response, problem=problem, **about)
