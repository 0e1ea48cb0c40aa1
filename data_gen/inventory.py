"""What a corpus holds and lacks, as rows: the plan's nodes, the documents, and a reason for all that is missing.

Documents kept + documents in the reject rows = documents planned.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

from data_gen.outline import Limits, Outline
from data_gen.work import Listing
from data_gen.writing import Writing, each_writing

Row = dict[str, Any]


def planned(outline: Outline) -> int:
    """How many documents the counts ask for."""
    c, variants = outline.counts, len(outline.specs)
    topics = len(outline.specs[0].rules) if outline.rules else c.domains * c.topics
    return topics * c.kinds * c.ideas * variants


def plan_rows(outline: Outline, limits: Limits) -> Iterator[Row]:
    """A row a node: kind, id, parent, what it says, and the key of the reply it came in."""
    for domain in outline.each_domain():
        yield {"kind": "domain", "parent": None, **_flat(domain)}
    for topic in outline.each_topic(limits):
        kind = "rule" if topic.rule else "subdomain"
        row = {"kind": kind, "parent": topic.domain.id, **_flat(topic), "rule": topic.rule.id if topic.rule else None}
        yield row
        for variant, spec in enumerate(outline.specs):
            for assertion in outline.assertions_of(topic, variant):
                yield {"kind": "assertion", "parent": topic.id, "spec": spec.name, **_flat(assertion)}
        shared = outline.shared_assertions(topic)
        for type_ in outline.each_kind(topic, limits):
            yield {"kind": "type", "parent": topic.id, **_flat(type_)}
            for idea in outline.each_idea(type_, shared, limits):
                voice = dataclasses.asdict(idea.voice)
                about = {"sections": list(topic.sections), "voice": voice}
                yield {"kind": "idea", "parent": type_.id, **_flat(idea), **about}


def _flat(node: Any) -> Row:
    """The node's own fields, without the nodes above it."""
    own = ("id", "name", "context", "statement", "explanation", "description", "title", "idea", "sections", "key")
    found = {name: getattr(node, name) for name in own if hasattr(node, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def missing_nodes(outline: Outline, limits: Limits) -> Iterator[Row]:
    """A row for every slot of the plan that no reply filled, with the documents that are missing with it."""
    counts, variants, answers = outline.counts, len(outline.specs), outline.answers
    per_kind = _some(counts.ideas, limits.ideas) * variants
    per_topic = _some(counts.kinds, limits.kinds) * per_kind
    if outline.rules:
        if not any(True for _ in outline.each_domain()):
            yield _missing(outline.domains(), answers, 0, per_topic * len(outline.specs[0].rules))
    else:
        yield from _slots(outline.domains(), answers, counts.domains, _some(counts.topics, limits.topics) * per_topic)
        for domain in outline.each_domain():
            yield from _slots(outline.topics(domain), answers, _some(counts.topics, limits.topics), per_topic)
    for topic in outline.each_topic(limits):
        shared = outline.shared_assertions(topic)
        kinds = _some(counts.kinds, limits.kinds)
        yield from _slots(outline.kinds(topic, shared), answers, kinds, per_kind)
        for kind in outline.each_kind(topic, limits):
            ideas = outline.ideas(kind, shared)
            yield from _slots(ideas, answers, _some(counts.ideas, limits.ideas), variants)


def _some(count: int, limit: int) -> int:
    return min(count, limit or count)


def _slots(listing: Listing[Any], answers: Any, wanted: int, documents: int) -> Iterator[Row]:
    have = len(listing.replay(answers).items)
    for slot in range(have, wanted):
        yield _missing(listing, answers, slot, documents)


def _missing(listing: Listing[Any], answers: Any, slot: int, documents: int) -> Row:
    replay = listing.replay(answers)
    reason = _reason(replay.rejects) or "not answered"
    keys = [key for key in (listing.key(n) for n in range(slot + 100)) if answers(key) is not None]
    return {
        "id": f"{listing.id}#{slot + 1}",
        "stage": listing.stage,
        "reason": reason,
        "attempts": len(keys),
        "documents": documents,
        "keys": keys,
    }


def written(
    outline: Outline, limits: Limits, tries: int, least: int, rejects: collections.Counter[str]
) -> Iterator[tuple[Writing, Row | None, Row | None]]:
    """Every document's work, with its row or the row of its rejection. Counts the reasons of all rejected replies."""
    for writing in each_writing(outline, limits, tries, least):
        found = writing.replay(outline.answers)
        rejects.update(found.rejects)
        if found.value is not None:
            yield writing, writing.row(found), None
        else:
            yield writing, None, rejected(writing.id, _reason(found.rejects) or "not answered", list(found.asked))


def rejected(identity: str, reason: str, keys: list[str]) -> Row:
    """The row of one document that is not in the corpus."""
    row = {"id": identity, "stage": "documents", "reason": reason}
    return row | {"attempts": len(keys), "documents": 1, "keys": keys}


def _reason(rejects: collections.Counter[str]) -> str:
    return "; ".join(sorted(rejects))
