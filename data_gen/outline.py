"""From a spec to the ideas of its documents: domains, subdomains (or rules), assertions, document types, ideas.

Every node has an id of ours; the words of a model are only ever its content. An Outline asks nothing itself: it says
which listings there are (data_gen.work settles them) and reads what their answers hold.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from data_gen import pools, prompt, reading
from data_gen.api.request import Request
from data_gen.pools import Voice
from data_gen.reading import Rejected
from data_gen.spec import Rule, Section, Spec
from data_gen.work import Answers, Asked, Listing

NAME, SENTENCES = 160, 3_000  # characters at most of names and of longer fields


@dataclasses.dataclass(frozen=True)
class Domain:
    id: str
    name: str
    sections: tuple[str, ...]  # ids; of a spec of rules the ids of its rules
    key: str  # of the reply it came in


@dataclasses.dataclass(frozen=True)
class Topic:
    """A subdomain, or a rule in a subdomain's place."""

    id: str
    domain: Domain
    name: str
    context: str
    sections: tuple[str, ...]
    rule: Rule | None
    key: str


@dataclasses.dataclass(frozen=True)
class Assertion:
    id: str
    statement: str
    explanation: str
    key: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """A document type."""

    id: str
    topic: Topic
    name: str
    description: str
    key: str


@dataclasses.dataclass(frozen=True)
class Idea:
    id: str
    kind: Kind
    title: str
    idea: str
    voice: Voice
    key: str


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many of each; topics: of a domain, assertions and kinds: of a topic, ideas: of a kind."""

    domains: int
    topics: int
    assertions: int
    kinds: int
    ideas: int


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many children of each node a phase goes on with; 0: all."""

    topics: int = 0
    kinds: int = 0
    ideas: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
    """Who answers a stage's questions, and how long the answers may be (tokens, thoughts included)."""

    model: str
    max_tokens: int
    effort: str = ""


class Outline:
    """specs: one, or the variants of one spec that share everything up to the ideas (see data_gen.pairs).

    rules: the specs' rules take the place of subdomains and assertions.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        names: tuple[str, str],
        counts: Counts,
        stages: dict[str, Stage],
        answers: Answers,
        seed: int,
        tries: int,
        ideas_at_once: int,
        rules: bool,
    ) -> None:
        self.specs, self.counts, self.answers, self.seed = tuple(specs), counts, answers, seed
        self.rules = rules
        self._names = dict(zip(("model_name", "provider_name"), names, strict=True))
        self._stages, self._tries, self._at_once = stages, tries, ideas_at_once
        self._prompts = {name: prompt.load(self._file(name)) for name in stages}
        known = {rule.id: rule for rule in specs[0].rules}
        self._rule_of = known
        self._ids = tuple(known) if self.rules else tuple(section.id for section in specs[0].sections)
        # For every stage one system prompt, and one for each variant where the variants part.
        shared = self._spec_block(self.specs)
        self._system = {
            name: self._system_of(name, shared) for name in stages if name not in ("assertions", "documents")
        }
        self._system_own: dict[str, tuple[str, ...]] = {
            name: tuple(self._system_of(name, self._spec_block((spec,))) for spec in self.specs)
            for name in ("assertions", "documents")
            if name in stages
        }

    # ---------------------------------------------------------------- questions

    def _file(self, stage: str) -> str:
        has_own = stage in ("domains", "types", "ideas", "documents")
        return f"{stage}_rules" if self.rules and has_own else stage

    def _spec_block(self, specs: Sequence[Spec]) -> str:
        return (
            prompt.load("spec")
            .system(specs=specs, rules=self.specs[0].rules if self.rules else (), **self._names)
            .strip()
        )

    def _system_of(self, stage: str, spec: str) -> str:
        wanted = self._prompts[stage].variables["system"]
        return self._prompts[stage].system(**{k: v for k, v in {"spec": spec, **self._names}.items() if k in wanted})

    def system(self, stage: str, variant: int = 0) -> str:
        """A stage's system prompt."""
        return self._system[stage] if stage in self._system else self._system_own[stage][variant]

    def prompt_digests(self) -> dict[str, str]:
        """Stage → sha256 of its prompt file, and of what all share."""
        return {name: found.sha256 for name, found in self._prompts.items()} | {"spec": prompt.load("spec").sha256}

    def request(self, stage: str, key: str, schema: dict[str, Any] | None, variant: int = 0, **values: Any) -> Request:
        """The question under `key`. variant: which of the specs it is asked with, where the variants part."""
        if "model_name" in self._prompts[stage].variables["user"]:
            values = values | {"model_name": self._names["model_name"]}
        settings = self._stages[stage]
        user = self._prompts[stage].user(**values)
        return Request(
            key,
            stage,
            settings.model,
            self.system(stage, variant),
            user,
            settings.max_tokens,
            schema,
            settings.effort,
        )

    # ---------------------------------------------------------------- the tree

    def domains(self) -> Listing[Domain]:
        ids_field = "rules" if self.rules else "sections"
        schema = listed("domains", {"name": _STRING, ids_field: _ids_schema(self._ids)})

        def read(item: Any, key: str) -> tuple[None, Domain]:
            name = reading.line(item, "name", NAME)
            return None, Domain("", name, reading.ids(item, ids_field, self._ids), key)

        def whole(items: list[Domain]) -> str:
            named = [one for item in items for one in item.sections]
            left = [one for one in self._ids if one not in named]
            if left:
                return f"{ids_field} in no domain: {', '.join(left)}"
            if self.rules and len(named) > len(self._ids):
                return f"rules in two domains: {', '.join(sorted({n for n in named if named.count(n) > 1}))}"
            return ""

        def ask(key: str, asked: Asked[Domain]) -> Request:
            have = asked.have
            return self.request("domains", key, schema, count=len(asked.slots), have=have, problem=asked.problem)

        n = self.counts.domains
        return Listing("plan", "domains", "domains", n, n, self._tries, ask, read, lambda d: d.name, whole)

    def topics(self, domain: Domain) -> Listing[Topic]:
        """Of a spec of prose; the topics of rules are there without asking."""
        schema = listed("subdomains", {"name": _STRING, "context": _STRING, "sections": _ids_schema(self._ids)})

        def read(item: Any, key: str) -> tuple[None, Topic]:
            name, context = reading.line(item, "name", NAME), reading.prose(item, "context", SENTENCES)
            return None, Topic("", domain, name, context, reading.ids(item, "sections", domain.sections), None, key)

        def whole(items: list[Topic]) -> str:
            left = [s for s in domain.sections if not any(s in item.sections for item in items)]
            return f"sections in no subdomain: {', '.join(left)}" if left else ""

        def ask(key: str, asked: Asked[Topic]) -> Request:
            return self.request(
                "subdomains",
                key,
                schema,
                domain=domain.name,
                sections=domain.sections,
                count=len(asked.slots),
                have=asked.have,
                problem=asked.problem,
            )

        n = self.counts.topics
        return Listing(domain.id, "subdomains", "subdomains", n, n, self._tries, ask, read, lambda t: t.name, whole)

    def assertions(self, topic: Topic, variant: int) -> Listing[Assertion]:
        """Of a topic by one of the specs."""
        schema = listed("assertions", {"statement": _STRING, "explanation": _STRING})
        sections: dict[str, Section] = {section.id: section for section in self.specs[variant].sections}

        def read(item: Any, key: str) -> tuple[None, Assertion]:
            statement = reading.line(item, "statement", SENTENCES)
            return None, Assertion("", statement, reading.prose(item, "explanation", SENTENCES), key)

        def ask(key: str, asked: Asked[Assertion]) -> Request:
            return self.request(
                "assertions",
                key,
                schema,
                variant,
                domain=topic.domain.name,
                subdomain=topic.name,
                context=topic.context,
                passages=[sections[one] for one in topic.sections],
                count=len(asked.slots),
                have=asked.have,
                problem=asked.problem,
            )

        n, where = self.counts.assertions, f"{topic.id}-{variant}"
        return Listing(where, "assertions", "assertions", n, n, self._tries, ask, read, lambda a: a.statement)

    def kinds(self, topic: Topic, shared: Sequence[Assertion]) -> Listing[Kind]:
        """shared: the assertions, where there is one spec only; variants have none in common."""
        schema = listed("types", {"name": _STRING, "description": _STRING})

        def read(item: Any, key: str) -> tuple[None, Kind]:
            name, description = reading.line(item, "name", NAME), reading.prose(item, "description", SENTENCES)
            return None, Kind("", topic, name, description, key)

        def ask(key: str, asked: Asked[Kind]) -> Request:
            count, have, problem = len(asked.slots), asked.have, asked.problem
            about = self.about(topic, shared)
            return self.request("types", key, schema, **about, count=count, have=have, problem=problem)

        n = self.counts.kinds
        return Listing(topic.id, "types", "types", n, n, self._tries, ask, read, lambda k: k.name)

    def ideas(self, kind: Kind, shared: Sequence[Assertion]) -> Listing[Idea]:
        schema = listed("ideas", {"voice": {"type": "integer"}, "title": _STRING, "idea": _STRING})

        def voice(slot: int) -> Voice:
            return pools.voice(self.seed, f"{kind.id}-i{slot + 1:02d}")

        def read(item: Any, key: str) -> tuple[int, Idea]:
            number = item.get("voice") if isinstance(item, dict) else None
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise Rejected("no voice")
            title, idea = reading.line(item, "title", NAME), reading.prose(item, "idea", SENTENCES)
            return number - 1, Idea(f"{kind.id}-i{number:02d}", kind, title, idea, voice(number - 1), key)

        def ask(key: str, asked: Asked[Idea]) -> Request:
            return self.request(
                "ideas",
                key,
                schema,
                **self.about(kind.topic, shared),
                kind=kind,
                voices=[(slot + 1, voice(slot)) for slot in asked.slots],
                have=asked.have,
                problem=asked.problem,
            )

        count, at_once = self.counts.ideas, min(self._at_once, self.counts.ideas)
        return Listing(kind.id, "ideas", "ideas", count, at_once, self._tries, ask, read, lambda i: i.title)

    def about(self, topic: Topic, shared: Sequence[Assertion]) -> dict[str, Any]:
        """What the prompts of types, ideas and documents are told of a topic."""
        if topic.rule:
            return {"domain": topic.domain.name, "rule": topic.rule, "rule_text": topic.rule.text}
        return {
            "domain": topic.domain.name,
            "subdomain": topic.name,
            "context": topic.context,
            "assertions": shared,
        }

    # ---------------------------------------------------------------- what the answers hold

    def each_domain(self) -> Iterator[Domain]:
        for slot, domain in sorted(self.domains().replay(self.answers).items.items()):
            yield dataclasses.replace(domain, id=f"d{slot + 1:02d}")

    def each_topic(self, limits: Limits) -> Iterator[Topic]:
        for domain in self.each_domain():
            if self.rules:
                found = [self._topic_of_rule(domain, i) for i in range(len(domain.sections))]
            else:
                items = sorted(self.topics(domain).replay(self.answers).items.items())
                found = [dataclasses.replace(topic, id=f"{domain.id}-s{slot + 1:02d}") for slot, topic in items]
            yield from found[: limits.topics or None]

    def _topic_of_rule(self, domain: Domain, i: int) -> Topic:
        rule = self._rule_of[domain.sections[i]]
        return Topic(f"{domain.id}-s{i + 1:02d}", domain, rule.name, "", (rule.section,), rule, domain.key)

    def assertions_of(self, topic: Topic, variant: int) -> list[Assertion]:
        if self.rules:
            return []
        items = self.assertions(topic, variant).replay(self.answers).items
        return [dataclasses.replace(a, id=f"{topic.id}-a{slot + 1}") for slot, a in sorted(items.items())]

    def shared_assertions(self, topic: Topic) -> list[Assertion]:
        return self.assertions_of(topic, 0) if len(self.specs) == 1 else []

    def each_kind(self, topic: Topic, limits: Limits) -> Iterator[Kind]:
        items = sorted(self.kinds(topic, self.shared_assertions(topic)).replay(self.answers).items.items())
        for slot, kind in items[: limits.kinds or None]:
            yield dataclasses.replace(kind, id=f"{topic.id}-t{slot + 1:02d}")

    def each_idea(self, kind: Kind, shared: Sequence[Assertion], limits: Limits) -> Iterator[Idea]:
        items = sorted(self.ideas(kind, shared).replay(self.answers).items.items())
        yield from (idea for _, idea in items[: limits.ideas or None])


_STRING = {"type": "string"}


def _ids_schema(ids: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "enum": list(ids)}}


def listed(field: str, properties: dict[str, Any]) -> dict[str, Any]:
    """{field: [{…}]}. The same for all questions of a stage, however many items they want: caches depend on it."""
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {field: {"type": "array", "items": item}},
        "required": [field],
        "additionalProperties": False,
    }
