"""The last step: one document from one idea, and the row it becomes."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from data_gen import reading
from data_gen.api.request import Request
from data_gen.outline import Assertion, Idea, Kind, Limits, Outline, Topic
from data_gen.work import Answers, Told, told


@dataclasses.dataclass(frozen=True)
class Writing:
    """The work of one document. variant: which of the outline's specs it is written by."""

    outline: Outline
    idea: Idea
    assertions: Sequence[Assertion]
    variant: int
    tries: int
    least: int  # characters

    @property
    def id(self) -> str:
        return f"{self.outline.specs[self.variant].name}-{self.idea.id}"

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).next

    def replay(self, answers: Answers) -> Told:
        """value: the text"""
        stem = f"documents_{self.idea.id}_{self.variant}"
        return told(stem, self.tries, answers, lambda reply: reading.document_of(reply, self.least), self._request)

    def _request(self, key: str, problem: str) -> Request:
        idea, topic = self.idea, self.idea.kind.topic
        return self.outline.request(
            "documents",
            key,
            None,
            self.variant,
            **self.outline.about(topic, self.assertions),
            kind=idea.kind,
            idea=idea,
            voice=str(idea.voice),
            problem=problem,
        )

    def row(self, written: Told) -> dict[str, Any]:
        """A row of documents.jsonl: the text, and all that led to it."""
        assert written.reply is not None
        assert written.request is not None
        spec, idea = self.outline.specs[self.variant], self.idea
        kind, topic, voice, reply = idea.kind, idea.kind.topic, idea.voice, written.reply
        parents = [topic.domain.key, topic.key, *(a.key for a in self.assertions), kind.key, idea.key]
        return {
            "id": self.id,
            "text": written.value,
            "spec": spec.name,
            "spec_sha256": spec.sha256,
            "sections": list(topic.sections),
            "domain_id": topic.domain.id,
            "domain": topic.domain.name,
            "subdomain_id": topic.id,
            "subdomain": topic.name,
            "rule": topic.rule.id if topic.rule else None,
            "assertions": [a.id for a in self.assertions],
            "document_type_id": kind.id,
            "document_type": kind.name,
            "idea": f"{idea.title}: {idea.idea}",
            "persona": {"role": voice.role, "lay": voice.lay},
            "setting": voice.setting,
            "tone": voice.tone,
            "names": list(voice.names),
            "seed": voice.seed,
            "prompt_sha256": hashlib.sha256((written.request.system + written.request.user).encode()).hexdigest(),
            "model": reply.model,
            "request": reply.key,
            "request_id": reply.request_id,
            "parents": list(dict.fromkeys(parents)),
            "batch": reply.batch,
            "usage": dataclasses.asdict(reply.usage),
            "cost_usd": round(reply.cost, 8),
        }


def each_cell(outline: Outline, limits: Limits) -> Iterator[tuple[Topic, Kind, list[list[Assertion]]]]:
    """Topic × type, with the topic's assertions of every variant."""
    for topic in outline.each_topic(limits):
        assertions = [outline.assertions_of(topic, variant) for variant in range(len(outline.specs))]
        for kind in outline.each_kind(topic, limits):
            yield topic, kind, assertions


def each_writing(outline: Outline, limits: Limits, tries: int, least: int) -> Iterator[Writing]:
    """The work of all documents, cell by cell, idea by idea, the variants of one idea side by side."""
    for _, kind, assertions in each_cell(outline, limits):
        shared = assertions[0] if len(assertions) == 1 else []
        for idea in outline.each_idea(kind, shared, limits):
            for variant, own in enumerate(assertions):
                yield Writing(outline, idea, own, variant, tries, least)
