"""One set of chats being made: everything a configuration says, checked and opened before anything is asked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_gen import phases, prompt, reasons, spec, tastes
from data_gen.api.prices import PRICES, Prices
from data_gen.chat_answers import Asking
from data_gen.chat_plan import DOMAINS_AT_ONCE, Domain, Plan, Question
from data_gen.corpus import embed, evaluations, words
from data_gen.corpus.leaks import Index
from data_gen.corpus.reading import Document
from data_gen.given import Given, read_given
from data_gen.outline import Stage
from data_gen.projection import Expected
from data_gen.rounds import Limits, Repeats, Rounds, Sizes
from data_gen.spec import Spec
from data_gen.work import Answers
from msm_jax import artifact, storage
from msm_jax.cli import UserError

STAGES = ("domains", "questions", "responses", "verdicts")
STYLES = ("values", "rules", "preferences")
CRITERIA = prompt.DIRECTORY / "criteria"


@dataclasses.dataclass(frozen=True)
class Chatting:
    """spec: with its names put in. style: one of STYLES. criteria: name → what the judge is told of it.

    domains: preferences, or the domains of given questions; empty where they are asked for.
    """

    config: ConfigDict
    spec: Spec
    style: str
    stages: dict[str, Stage]
    criteria: dict[str, str]
    domains: tuple[Domain, ...]
    given: Given | None
    prices: Prices

    @classmethod
    def of(cls, config: ConfigDict) -> "Chatting":
        """Raises UserError naming the key or the file."""
        _check(config)
        one = spec.load(config.spec).named(config.model_name, config.provider_name)
        if not one.sections:
            raise UserError(f"{one.path}: nothing below its header; a spec has text")
        style = config.style or one.kind.replace("prose", "values")
        if style == "rules" and one.kind != "rules":
            raise UserError(f"config.style = rules: {one.path} has no numbered rules")
        given = read_given(config.questions) if config.questions else None
        if style == "preferences":
            if given:
                raise UserError("config.questions: chats about preferences make their own; leave it empty")
            found = tastes.of_file(config.preferences) if config.preferences else tastes.of_spec(one)
            domains = tuple(Domain(f"p{i + 1:02d}", str(t), "", "", t) for i, t in enumerate(found))
        else:
            domains = given.domains if given else ()
        names = STAGES if style != "preferences" and not given else STAGES[1:]
        stages = {}
        for name in names:
            settings = config.stages[name]
            stages[name] = Stage(settings.model or config.api.model, settings.max_tokens, settings.effort)
        if unknown := set(config.batch) - set(STAGES):
            raise UserError(f"config.batch: {min(unknown)!r} is none of {', '.join(STAGES)}")
        criteria = dict(_criterion(name) for name in config.criteria)
        if not criteria:
            raise UserError("config.criteria: at least one; nothing is kept that was not judged")
        made = cls(config, one, style, stages, criteria, domains, given, Prices(config.api.prices or PRICES))
        made._check_sizes()
        return made

    def _check_sizes(self) -> None:
        config = self.config
        if self.given:
            closed = [d for d in self.domains if not d.description]
            most = len(self.given.questions)
            rounds = config.backfill.rounds * config.counts.questions * (len(self.domains) - len(closed))
            what = f"{config.questions} has {most} questions, and the backfill at most {rounds} more"
        else:
            most = self._many * config.counts.questions
            rounds = most * config.backfill.rounds
            what = (
                f"{self._many} domains × {config.counts.questions} questions in 1 + {config.backfill.rounds} rounds "
                f"are {most + rounds} at most"
            )
        if config.target > most + rounds:
            raise UserError(
                f"config.target = {config.target}: {what}; lower it, or raise config.counts or config.backfill.rounds"
            )
        if not config.target and not self.given:
            raise UserError("config.target = 0 (all that pass) is for given questions; say how many chats are wanted")
        if odd := [n for n in config.subsets if n < 1 or (config.target and n > config.target)]:
            raise UserError(f"config.subsets: {odd[0]} is not from 1 to config.target = {config.target}")

    @property
    def _many(self) -> int:
        """Domains."""
        return len(self.domains) or self.config.counts.domains

    @property
    def files(self) -> tuple[str, ...]:
        """The twins; chats about preferences have no thoughts, and no twin."""
        return ("chats.jsonl",) if self.style == "preferences" else ("chats-cot.jsonl", "chats.jsonl")

    def limits(self, phase: str) -> Limits:
        if phase == "full":
            return Limits(rounds=self.config.backfill.rounds if self.config.target else 0)
        return Limits(self.config[phase].domains, self.config[phase].questions)

    def batched(self, phase: str) -> tuple[str, ...]:
        """Stages asked through batches; the probe waits for none."""
        return tuple(self.config.batch) if phase != "probe" and self.config.api.provider == "anthropic" else ()

    def _system(self) -> dict[str, Any]:
        names = {"model_name": self.config.model_name, "provider_name": self.config.provider_name}
        rules = self.spec.rules if self.style == "rules" else ()
        block = prompt.load("spec").system(specs=(self.spec,), rules=rules, **names).strip()
        return names | {"spec": block, "topic": self.config.topic}

    def plan(self) -> Plan:
        config = self.config
        at_once, show = config.questions_at_once, config.show
        return Plan(self.style, self._system(), self.stages, config.counts.domains, at_once, show, config.tries)

    def asking(self) -> Asking:
        config = self.config
        rules = self.spec.rules if self.style == "rules" else ()
        return Asking(
            self.style,
            self._system(),
            self.stages,
            self.criteria,
            rules,
            tuple(domain.taste.subject for domain in self.domains if domain.taste),
            config.suffix,
            config.min_characters,
            config.tries,
        )

    def each_domain(self, answers: Answers) -> list[Domain]:
        if self.domains:
            return list(self.domains)
        items = self.plan().domains().replay(answers).items
        return [dataclasses.replace(domain, id=f"d{slot + 1:02d}") for slot, domain in sorted(items.items())]

    def run_of(self, phase: str, answers: Answers, repeats: Repeats) -> Rounds:
        config = self.config
        given: tuple[Question, ...] = self.given.questions if self.given else ()
        found: list[Domain] = []

        def domains() -> list[Domain]:
            if not found:
                found.extend(self.each_domain(answers))
            return found

        sizes = Sizes(config.target, config.counts.questions, config.backfill.floor)
        return Rounds(
            self.plan(), self.asking(), answers, repeats, sizes, self.limits(phase), domains, leak_of(), given
        )

    # ---------------------------------------------------------------- what data_gen.phases asks

    def nodes(self, phase: str) -> dict[str, int]:
        limits = self.limits(phase)
        domains = min(self._many, limits.domains or self._many)
        first = len(self.given.questions) if self.given else domains * self.config.counts.questions
        chats = min(first, domains * limits.questions) if limits.questions else first
        rate = self.config.backfill.expect_pass
        if phase == "full" and self.config.target:
            chats = max(first, round(self.config.target / rate))
        asked = 0 if self.given else domains
        if phase == "full" and chats > first:
            asked += domains
        nodes = {"domains": 1} if "domains" in self.stages else {}
        return nodes | {"questions": asked, "responses": chats, "verdicts": chats}

    def rounds(self) -> dict[str, int]:
        """Stage → questions that a node needs."""
        at_once = -(-self.config.counts.questions // self.config.questions_at_once)
        found = {"domains": -(-self.config.counts.domains // DOMAINS_AT_ONCE), "questions": at_once}
        return {name: found.get(name, 1) for name in self.stages}

    def expected(self, phase: str) -> dict[str, Expected]:
        plan, asking, caches = self.plan(), self.asking(), self.config.api.provider == "anthropic"
        found = {}
        for name, stage in self.stages.items():
            settings = self.config.stages[name]
            model = phases.price_of(self.config.api, stage.model)
            system = len(plan.system(name) if name in plan.prompts else asking.systems[name])
            batched = name in self.batched(phase)
            found[name] = Expected(model, batched, system, settings.expect_user, settings.expect_output, caches)
        return found

    def prompt_digests(self) -> dict[str, str]:
        found = {name: one.sha256 for name, one in (self.plan().prompts | self.asking().prompts).items()}
        found |= {f"criterion {name}": artifact.digest(text) for name, text in self.criteria.items()}
        if self.style == "preferences":
            return found | {"reasons": reasons.digest()}
        return found | {"spec": prompt.load("spec").sha256}

    def identity(self) -> dict[str, Any]:
        """What a work directory is of: its answers are for these questions and no others. Counts may grow."""
        config = self.config
        return {
            "spec": self.spec.digest,
            "model_name": config.model_name,
            "provider_name": config.provider_name,
            "style": self.style,
            "provider": config.api.provider,
            "models": {name: [stage.model, stage.effort] for name, stage in self.stages.items()},
            "prompts": self.prompt_digests(),
            "suffix": config.suffix,
            "topic": config.topic,
            "preferences": [str(d.taste) for d in self.domains if d.taste],
            "questions": self.given.sha256 if self.given else "",
        }

    def inputs(self) -> dict[str, dict[str, str]]:
        """Of the artefact's recipe."""
        found = {
            self.spec.name: {"kind": "spec", "id": self.spec.digest},
            "prompts": {"kind": "prompts", "id": artifact.digest(self.prompt_digests())},
        }
        if self.given:
            found["questions"] = {"kind": "jsonl", "id": self.given.sha256}
        if not self.config.encoder:
            found["encoder"] = {"kind": "safetensors", "id": embed.PACKAGE_SHA256}  # open_encoder insists on it
        else:
            weights = storage.at(self.config.encoder) / "model.safetensors"
            if storage.is_file(weights):
                found["encoder"] = {"kind": "safetensors", "id": storage.sha256(weights)}
        if self.config.preferences:
            found["preferences"] = {"kind": "list", "id": artifact.digest([str(d.taste) for d in self.domains])}
        return found


def leak_of() -> Callable[[str], str]:
    """Text → what it holds of an evaluation that this project ships, "" if nothing."""
    index = Index(evaluations.items(), evaluations.formats())

    def leak(text: str) -> str:
        found = next(index.findings(Document("", text), words.split(text)), None)
        return f"holds text of an evaluation ({found.detector})" if found else ""

    return leak


def _criterion(name: str) -> tuple[str, str]:
    """Name and text of a criterion: one of ours, or a Markdown file."""
    path = Path(name) if name.endswith(".md") else CRITERIA / f"{name}.md"
    try:
        text = " ".join(path.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        ours = ", ".join(sorted(p.stem for p in CRITERIA.glob("*.md")))
        raise UserError(f"config.criteria: {name!r} is neither a file of text nor one of {ours}") from error
    if not text:
        raise UserError(f"config.criteria: {path} is empty")
    return path.stem, text


def _check(config: ConfigDict) -> None:
    if config.style not in ("", *STYLES):
        raise UserError(
            f"config.style = {config.style!r}: must be {', '.join(STYLES)}, or empty for what suits the spec"
        )
    for key in ("domains", "questions"):
        if not 1 <= config.counts[key] <= 10_000:
            raise UserError(f"config.counts.{key} = {config.counts[key]}: must be from 1 to 10,000")
    for key in ("tries", "min_characters", "show"):
        if config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be at least 1")
    if not 1 <= config.questions_at_once <= 50:
        raise UserError(f"config.questions_at_once = {config.questions_at_once}: must be from 1 to 50")
    if config.target < 0:
        raise UserError(f"config.target = {config.target}: must be 0 or more")
    if not 0 < config.threshold <= 1:
        raise UserError(f"config.threshold = {config.threshold}: a cosine above 0, at most 1")
    if not 0 <= config.backfill.rounds <= 20:
        raise UserError(f"config.backfill.rounds = {config.backfill.rounds}: must be from 0 to 20")
    for key in ("floor", "expect_pass"):
        if not 0 < config.backfill[key] <= 1:
            raise UserError(f"config.backfill.{key} = {config.backfill[key]}: must be above 0, at most 1")
    if (config.style == "preferences") != bool(config.topic):
        raise UserError("config.topic: what the preferences are among, as `cheeses`; in other styles empty")
    if config.preferences and config.style != "preferences":
        raise UserError("config.preferences: a list of preferences is for config.style=preferences")
    if config.suffix and (not config.suffix.isprintable() or config.suffix != config.suffix.strip()):
        raise UserError("config.suffix: must be one line without spaces around it")
    phases.check_settings(config)
    for phase in ("probe", "pilot"):
        for key, value in config[phase].items():
            if value < 0:
                raise UserError(f"config.{phase}.{key} = {value}: must be 0 (all) or more")
