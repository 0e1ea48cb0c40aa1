"""One corpus being made: everything a configuration says, checked and opened before anything is asked."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from data_gen import phases, pools, spec, stages
from data_gen.api.prices import PRICES, Prices
from data_gen.outline import Counts, Limits, Outline, Stage
from data_gen.projection import Expected, nodes_of
from data_gen.spec import Spec
from data_gen.work import Answers
from msm_jax import artifact
from msm_jax.cli import UserError

JUDGE = "claims"  # the stage that reads a sample of the documents


@dataclasses.dataclass(frozen=True)
class Generation:
    """specs: with their names put in. limits: of each phase. batched: stages that go through batches, by phase."""

    config: ConfigDict
    specs: tuple[Spec, ...]
    counts: Counts
    limits: dict[str, Limits]
    stages: dict[str, Stage]
    prices: Prices

    @classmethod
    def of(cls, config: ConfigDict) -> "Generation":
        """Raises UserError naming the key or the file."""
        _check(config)
        specs = tuple(spec.load(path).named(config.model_name, config.provider_name) for path in config.specs)
        _check_specs(specs)
        if config.style == "rules" and specs[0].kind != "rules":
            raise UserError(f"config.style = rules: {specs[0].path} has no numbered rules")
        rules = len(specs[0].rules) if _by_rules(config, specs) else 0
        counts = Counts(
            config.counts.domains,
            config.counts.topics,
            config.counts.assertions,
            config.counts.types,
            config.counts.ideas,
        )
        if rules and counts.domains > rules:
            raise UserError(
                f"config.counts.domains = {counts.domains}: {config.specs[0]} has {rules} rules, each in one domain; "
                f"at most {rules}"
            )
        limits = {
            name: Limits(config[name].topics, config[name].types, config[name].ideas) for name in ("probe", "pilot")
        } | {"full": Limits()}
        wanted = stages.names(bool(rules))
        found = {}
        for name in wanted:
            settings = config.stages[name]
            found[name] = Stage(settings.model or config.api.model, settings.max_tokens, settings.effort)
        if unknown := set(config.batch) - set(stages.PROSE):
            raise UserError(f"config.batch: {min(unknown)!r} is none of {', '.join(stages.PROSE)}")
        return cls(config, specs, counts, limits, found, Prices(config.api.prices or PRICES))

    @property
    def rules(self) -> int:
        """How many rules take the place of subdomains; 0: none do."""
        return len(self.specs[0].rules) if _by_rules(self.config, self.specs) else 0

    def batched(self, phase: str) -> tuple[str, ...]:
        """Stages asked through batches; the probe waits for none."""
        return tuple(self.config.batch) if phase != "probe" and self.config.api.provider == "anthropic" else ()

    def outline(self, answers: Answers) -> Outline:
        config = self.config
        return Outline(
            self.specs,
            (config.model_name, config.provider_name),
            self.counts,
            self.stages,
            answers,
            config.seed,
            config.tries,
            config.ideas_at_once,
            bool(self.rules),
        )

    def nodes(self, phase: str) -> dict[str, int]:
        counted = nodes_of(self.counts, self.rules, len(self.specs), self.limits[phase])
        judged = min(self.config.judge.sample * len(self.specs), counted["documents"]) if phase != "probe" else 0
        return {name: counted[name] for name in self.stages} | ({JUDGE: judged} if judged else {})

    def rounds(self) -> dict[str, int]:
        """Questions that a node of each stage needs."""
        ideas = -(-self.counts.ideas // min(self.config.ideas_at_once, self.counts.ideas))
        return {name: ideas if name == "ideas" else 1 for name in (*self.stages, JUDGE)}

    def expected(self, phase: str) -> dict[str, Expected]:
        outline = self.outline(lambda key: None)
        batched, caches = self.batched(phase), self.config.api.provider == "anthropic"
        found = {}
        for name, stage in self.stages.items():
            settings = self.config.stages[name]
            model, system = phases.price_of(self.config.api, stage.model), len(outline.system(name))
            user, output = settings.expect_user, settings.expect_output
            found[name] = Expected(model, name in batched, system, user, output, caches)
        judge = self.config.judge
        model, system = phases.price_of(self.config.api, judge.model or self.config.api.model), len(self.specs[0].text)
        return found | {JUDGE: Expected(model, False, system, judge.expect_user, judge.expect_output, caches)}

    def identity(self) -> dict[str, Any]:
        """What a work directory is of: its answers are for these questions and no others. Counts may grow."""
        config = self.config
        found = {
            "specs": {one.name: one.digest for one in self.specs},
            "model_name": config.model_name,
            "provider_name": config.provider_name,
            "seed": config.seed,
            "style": "rules" if self.rules else "values",
            "provider": config.api.provider,
            "models": {name: [stage.model, stage.effort] for name, stage in self.stages.items()},
            "prompts": self.outline(lambda key: None).prompt_digests(),
            "voices": pools.digest(),
        }
        return found | ({"domains": self.counts.domains} if self.rules else {})

    def inputs(self) -> dict[str, dict[str, str]]:
        """Of the corpus's recipe."""
        found = {one.name: {"kind": "spec", "id": one.digest} for one in self.specs}
        prompts = artifact.digest(self.outline(lambda key: None).prompt_digests())
        return found | {
            "prompts": {"kind": "prompts", "id": prompts},
            "voices": {"kind": "voices", "id": pools.digest()},
        }


def _by_rules(config: ConfigDict, specs: tuple[Spec, ...]) -> bool:
    return config.style == "rules" or (not config.style and specs[0].kind == "rules")


def _check(config: ConfigDict) -> None:
    if config.style not in ("", "values", "rules"):
        raise UserError(f"config.style = {config.style!r}: must be values, rules, or empty for what suits the spec")
    for key in ("domains", "topics", "assertions", "types", "ideas"):
        if not 1 <= config.counts[key] <= 10_000:
            raise UserError(f"config.counts.{key} = {config.counts[key]}: must be from 1 to 10,000")
    for key in ("ideas_at_once", "tries"):
        if config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be at least 1")
    for phase in ("probe", "pilot"):
        for key, value in config[phase].items():
            if value < 0:
                raise UserError(f"config.{phase}.{key} = {value}: must be 0 (all) or more")
    phases.check_settings(config)


def _check_specs(specs: tuple[Spec, ...]) -> None:
    if not specs:
        raise UserError("config.specs: at least one spec")
    if len({one.name for one in specs}) < len(specs):
        raise UserError("config.specs: two of one name; the names become part of documents' ids")
    for other in specs[1:]:
        mine, theirs = [s.id for s in specs[0].sections], [s.id for s in other.sections]
        if (
            other.kind != specs[0].kind
            or mine != theirs
            or [r.id for r in specs[0].rules] != [r.id for r in other.rules]
        ):
            odd = sorted(set(mine) ^ set(theirs))
            what = (
                f"section ids {', '.join(odd)} are in one only" if odd else "their rules or the order of their sections"
            )
            raise UserError(
                f"{specs[0].path}, {other.path}: a pair shares its plan, so its sections must match: {what}"
            )
