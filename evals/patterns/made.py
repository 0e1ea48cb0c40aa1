"""One analysis: everything a configuration says, checked and read before anything is asked."""

import dataclasses
import hashlib
from typing import Any

from ml_collections import ConfigDict

from data_gen import phases
from data_gen.api.prices import PRICES, Prices
from data_gen.outline import Stage
from data_gen.projection import Expected
from evals.patterns import codebook, counting, transcripts
from evals.patterns.codebook import Codebook
from evals.patterns.reading import CODEBOOKS, MOST, REASONS, STAGES, VERDICTS, Reader, load_prompt
from evals.patterns.transcripts import Transcript, Transcripts
from msm_jax import artifact
from msm_jax.cli import UserError

SYNTHESISED = "synthesise"  # config.codebook: make one


@dataclasses.dataclass(frozen=True)
class Patterns:
    """given: the codebook; None where it is to be made. What data_gen.phases asks of a data set, this answers too."""

    config: ConfigDict
    transcripts: Transcripts
    given: Codebook | None
    reader: Reader
    prices: Prices

    @classmethod
    def of(cls, config: ConfigDict) -> "Patterns":
        """Raises UserError naming the key or the file."""
        _check(config)
        given = None if config.codebook == SYNTHESISED else codebook.load(config.codebook or codebook.FILE)
        found = transcripts.load(config.logs)
        for field in config.group:
            known = sorted({key for one in found.rows for key in one.group})
            if field not in known:
                raise UserError(f"config.group: no transcript has {field!r}; they have {', '.join(known) or 'nothing'}")
        stages = {}
        for name in STAGES:
            settings = config.stages[name]
            stages[name] = Stage(settings.model or config.api.model, settings.max_tokens, settings.effort)
        shown, context = config.characters, config.context_characters
        reader = Reader(stages, shown, context, config.tries, config.at_once, config.seed)
        return cls(config, found, given, reader, Prices(config.api.prices or PRICES))

    # ---------------------------------------------------------------- samples

    def chosen(self, phase: str) -> list[Transcript]:
        """A phase's transcripts, in the order in which samples are the first ones: by lot, and so of every group."""
        rows = sorted(self.transcripts.rows, key=lambda one: _lot(self.config.seed, one.id))
        return rows[: (self.config[phase].transcripts if phase != "full" else 0) or len(rows)]

    def extracted(self, phase: str) -> list[Transcript]:
        """Those whose reasons the codebook is made from."""
        rows = [] if self.given else self.chosen(phase)
        return rows[: self.config.extract or len(rows)]

    def repeated(self, phase: str) -> list[Transcript]:
        """Those that are classified again."""
        return self.chosen(phase)[: self.config.agreement.transcripts] if self.config.agreement.repeats > 1 else []

    def stable(self, phase: str) -> list[Transcript]:
        """Those that codebooks are made from anew."""
        return self.chosen(phase)[: self.config.stability.transcripts]

    @property
    def seeds(self) -> int:
        return int(self.config.stability.seeds) if self.config.stability.transcripts else 0

    def batched(self, phase: str) -> tuple[str, ...]:
        return tuple(self.config.batch) if phase != "probe" and self.config.api.provider == "anthropic" else ()

    # ---------------------------------------------------------------- what data_gen.phases asks

    def nodes(self, phase: str) -> dict[str, int]:
        extracted, stable = len(self.extracted(phase)), len(self.stable(phase))
        extra = max(0, self.seeds - 1) * stable + (max(extracted, stable) if self.seeds else extracted)
        again = (self.config.agreement.repeats - 1) * len(self.repeated(phase))
        return {
            REASONS: extra,
            CODEBOOKS: self.seeds + (self.given is None),
            VERDICTS: len(self.chosen(phase)) + again + self.seeds * stable,
        }

    def rounds(self) -> dict[str, int]:
        categories = len(self.given.categories) if self.given else self.config.categories
        return dict.fromkeys(STAGES, 1) | {VERDICTS: -(-categories // (self.config.at_once or categories))}

    def expected(self, phase: str) -> dict[str, Expected]:
        categories = (self.given or codebook.load(codebook.FILE)).categories
        systems: dict[str, dict[str, Any]] = {
            REASONS: {"most": MOST},
            CODEBOOKS: {"kinds": codebook.KINDS},
            VERDICTS: {"categories": categories},
        }
        found = {}
        for name, stage in self.reader.stages.items():
            settings, model = self.config.stages[name], phases.price_of(self.config.api, stage.model)
            system, batched = len(load_prompt(name).system(**systems[name])), name in self.batched(phase)
            caches = self.config.api.provider == "anthropic"
            found[name] = Expected(model, batched, system, settings.expect_user, settings.expect_output, caches)
        return found

    def identity(self) -> dict[str, Any]:
        """What a work directory's answers are to. Transcripts may be added: keys are made of what is asked."""
        return {
            "provider": self.config.api.provider,
            "models": {name: [stage.model, stage.effort] for name, stage in self.reader.stages.items()},
            "prompts": {name: load_prompt(name).sha256 for name in STAGES},
            "seed": self.config.seed,
        }

    def inputs(self) -> dict[str, dict[str, str]]:
        found = {
            "transcripts": {"kind": "transcripts", "id": self.transcripts.digest()},
            "prompts": {"kind": "prompts", "id": artifact.digest(self.identity()["prompts"])},
        }
        return found | ({"codebook": {"kind": "codebook", "id": self.given.digest()}} if self.given else {})


def _lot(seed: int, identity: str) -> str:
    return hashlib.sha256(f"{seed}/{identity}".encode()).hexdigest()


def _check(config: ConfigDict) -> None:
    """Raises UserError on settings that cannot be, before anything is read."""
    for key in ("extract", "at_once", "context_characters"):
        if config[key] < 0:
            raise UserError(f"config.{key} = {config[key]}: must be 0 or more")
    for key in ("reasons", "categories", "characters", "tries"):
        if config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be at least 1")
    if config.merge.overlap not in counting.OVERLAPS:
        raise UserError(f"config.merge.overlap = {config.merge.overlap!r}: must be {' or '.join(counting.OVERLAPS)}")
    if not 0 <= config.merge.above <= 1:
        raise UserError(f"config.merge.above = {config.merge.above}: must be from 0 to 1")
    if config.agreement.repeats < 1 or config.agreement.draws < 1:
        raise UserError("config.agreement: repeats and draws must be at least 1")
    if config.stability.transcripts and config.stability.seeds < 2:
        raise UserError("config.stability.seeds: two at least, or there is nothing to compare; or set transcripts to 0")
    for group in ("agreement", "stability", "probe", "pilot"):
        if config[group].transcripts < 0:
            raise UserError(f"config.{group}.transcripts = {config[group].transcripts}: must be 0 or more")
    if unknown := set(config.batch) - set(STAGES):
        raise UserError(f"config.batch: {min(unknown)!r} is none of {', '.join(STAGES)}")
    phases.check_settings(config)
