"""A Model Spec becomes another one: with reasons, in detail, in general terms, without attribution, or inverted.

    python -m data_gen.derive --config=configs/data/derive.py --config.spec=specs/rules.md \\
        --config.derivation=value_augmented --config.out=runs/specs/value_augmented

Output, an artefact: spec.md (a spec like any other, for --config.specs of data_gen.documents), changes.md (a table of
what became of every section and rule, words and tokens before and after), spec.diff, rejects.jsonl, ledger.jsonl,
manifest.json. What a model answered is kept in the work directory: killed at any moment, the same command
goes on from there. `--preview` says what would be asked and asks nobody.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_gen import phases, projection, prompt, spec
from data_gen.api import providers
from data_gen.api.prices import PRICES, Prices
from data_gen.api.store import Store
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.spec import Spec
from data_gen.tokenizer import AnyTokenizer
from data_gen.toolbox import changes
from data_gen.toolbox.anti import AntiSpec
from data_gen.toolbox.attribution import AttributionRemoved
from data_gen.toolbox.augmented import rules_augmented, value_augmented
from data_gen.toolbox.derivation import Derivation, Given, Made, Row
from data_gen.toolbox.general import General
from data_gen.toolbox.lengths import Ruler, Target
from data_gen.toolbox.parts import Asking
from data_gen.work import settle
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

DERIVATIONS = {
    "value_augmented": Row("with-reasons", value_augmented, sized=True),
    "rules_augmented": Row("in-detail", rules_augmented, sized=True),
    "general": Row("in-general", General, sized=True, words=330),
    "attribution_removed": Row("no-attribution", AttributionRemoved, sized=False),
    "anti_spec": Row("anti", AntiSpec, sized=False),  # the one whose label comes first: anti-philosophy
}
SPEC, CHANGES, DIFF, REJECTS, LEDGER = "spec.md", "changes.md", "spec.diff", "rejects.jsonl", "ledger.jsonl"
PROVIDERS = ("anthropic", "openai", "offline")


@dataclasses.dataclass(frozen=True)
class Plan:
    """One derivation, opened and checked before anything is asked. match: the spec whose length is to be met."""

    config: ConfigDict
    parent: Spec
    name: str
    derivation: Derivation
    ruler: Ruler
    match: Spec | None
    prices: Prices

    @classmethod
    def of(cls, config: ConfigDict) -> "Plan":
        """Raises UserError naming the key or the file."""
        if config.derivation not in DERIVATIONS:
            raise UserError(f"config.derivation = {config.derivation!r}: must be one of {', '.join(DERIVATIONS)}")
        check_asking(config)
        row, parent = DERIVATIONS[config.derivation], spec.load(config.spec)
        if not parent.text.strip():
            raise UserError(f"{config.spec}: empty below its header; there is nothing to derive from")
        match = spec.load(config.match) if config.match else None
        _check_sizes(config, row, parent, match)
        tokenizer: AnyTokenizer | None = open_tokenizer(config.tokenizer) if config.tokenizer else None
        parent.named(config.model_name, config.provider_name)  # both names can be names
        ruler = Ruler(tokenizer, (config.model_name, config.provider_name))
        target: Target | None
        if match:
            target = Target(ruler, ruler.measures(match.text), config.tolerance, match.path)
        else:
            wanted = config.words or row.words
            target = Target(ruler, (wanted,), config.words_tolerance, "config.words") if wanted else None
        asking = Asking(config.api.model, config.max_tokens, config.effort)
        given = Given(parent, asking, ruler, target, config.tries, config.rounds, config.seed)
        name = _name(config, row, parent)
        return cls(config, parent, name, row.open(given), ruler, match, Prices(config.api.prices or PRICES))

    def prompts(self) -> dict[str, str]:
        return {name: prompt.load(name).sha256 for name in self.derivation.prompts}

    def inputs(self) -> dict[str, dict[str, str]]:
        found = {"spec": {"kind": "spec", "id": self.parent.sha256}}
        if self.match:
            found["match"] = {"kind": "spec", "id": self.match.sha256}
        if self.derivation.prompts:
            found["prompts"] = {"kind": "prompts", "id": artifact.digest(self.prompts())}
        return found | (self.ruler.tokenizer.inputs() if self.ruler.tokenizer else {})

    def settings(self) -> dict[str, Any]:
        """The configuration as far as it decides what comes out."""
        left_out = ("out", "work", "spec", "match", "tokenizer", "api", "name", "expect_output")
        chosen = {k: v for k, v in self.config.to_dict().items() if k not in left_out}
        asked = (
            {"provider": self.config.api.provider, "model": self.config.api.model} if self.derivation.prompts else {}
        )
        return chosen | asked | {"name": self.name}

    def identity(self) -> dict[str, Any]:
        """What a work directory's answers are to."""
        kept = ("derivation", "effort", "seed", "words", "model_name", "provider_name")
        found = {k: self.config[k] for k in kept} | {
            "provider": self.config.api.provider,
            "model": self.config.api.model,
        }
        return found | {"inputs": self.inputs()}

    def rows(self, store: Store | None) -> list[projection.Row]:
        """What is asked, and what it costs."""
        nodes = {stage: n for stage, n in self.derivation.questions().items() if n}
        model, system = phases.price_of(self.config.api, self.config.api.model), len(self.parent.text) + 2_000
        output = self.config.expect_output
        want = projection.Expected(model, False, system, 600, output, self.config.api.provider == "anthropic")
        return projected(nodes, dict.fromkeys(nodes, want), store, self.prices, 0.0)


def _check_sizes(config: ConfigDict, row: Row, parent: Spec, match: Spec | None) -> None:
    """Raises UserError where the sizes asked for contradict one another, or the derivation."""
    name = config.derivation
    if config.words < 0 or config.rounds < 0:
        raise UserError("config.words and config.rounds must be 0 or more")
    for key in ("tolerance", "words_tolerance"):
        if not 0 < config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be between 0 and 1, as 0.03")
    if config.words and match:
        raise UserError("config.words and config.match both say how long the spec is to be; give one of them")
    if (config.words or match) and not row.sized:
        raise UserError(
            f"config.derivation = {name}: its length follows from {parent.path}; leave words and match empty"
        )
    if match and name == "general":
        raise UserError("config.derivation = general: its length is config.words; leave config.match empty")
    if match and not config.tokenizer:
        raise UserError("config.tokenizer: lengths are matched in tokens too; name a tokenizer's directory")


def _name(config: ConfigDict, row: Row, parent: Spec) -> str:
    name = f"anti-{parent.name}" if row.suffix == "anti" else f"{parent.name}-{row.suffix}"
    name = config.name or name
    if name == parent.name:
        raise UserError(f"config.name = {name}: that is the original's name; a derived spec has another")
    if row.suffix == "anti" and not name.startswith(("anti-", "contrast-")):
        raise UserError(f"config.name = {name}: an anti-spec's name begins with anti- or contrast-")
    if not spec.is_name(name):
        raise UserError(f"config.name = {name!r}: may hold a–z, 0–9, _ and - only, 40 at most")
    return name


# ---------------------------------------------------------------- what every such command checks


def check_asking(config: ConfigDict) -> None:
    """Raises UserError on names, counts and places that cannot be."""
    if config.api.provider not in PROVIDERS:
        raise UserError(f"config.api.provider = {config.api.provider!r}: must be anthropic, openai or offline")
    for key in ("tries", "max_tokens"):
        if config[key] < 1:
            raise UserError(f"config.{key} = {config[key]}: must be at least 1")
    for key in ("cap_usd", "ask_above_usd"):
        if not config.api[key] >= 0:
            raise UserError(f"config.api.{key} = {config.api[key]}: must be 0 or more")
    if not config.work and storage.is_remote(config.out):
        raise UserError(f"config.out = {config.out}: name a local directory for the work, as --config.work=runs/work")
    if config.work and storage.is_remote(config.work):
        raise UserError(f"config.work = {config.work}: must be on a local disk; config.out may be in a bucket")


def projected(
    nodes: dict[str, int],
    expected: dict[str, projection.Expected],
    store: Store | None,
    prices: Prices,
    batch_hits: float,
) -> list[projection.Row]:
    measured = projection.measure(store.ledger()) if store else {}
    day = datetime.datetime.now(datetime.UTC).date()
    return projection.project(nodes, dict.fromkeys(nodes, 1), expected, measured, prices, batch_hits, day)


def check_money(api: ConfigDict, store: Store, rows: list[projection.Row]) -> None:
    """Raises UserError where it costs something and nobody said how much it may cost, or more than goes unasked."""
    wanted, spent = sum(row.usd for row in rows), store.money()[0]
    phases.check_cap(api, wanted)
    if wanted - spent > api.ask_above_usd:
        raise UserError(
            f"config.api.ask_above_usd = {api.ask_above_usd:g}: this is projected to cost {wanted - spent:.2f} USD "
            "more; look at --preview, then raise it to agree"
        )


def show(rows: Callable[[Store | None], list[projection.Row]], work: Path, prices: Prices) -> None:
    """The preview's table, on stdout."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(work / phases.STORE)) if (work / phases.STORE).is_file() else None
        table = projection.table(rows(store), store.money()[0] if store else 0.0)
    print(f"prices of {prices.date} ({prices.path}): check them\n\n{table}")


# ---------------------------------------------------------------- the command


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    plan = Plan.of(config)
    job = None if preview else artifact.begin(config.out, "spec", plan.settings(), plan.inputs())
    if job is None and not preview:
        return
    work = Path(config.work or f"{config.out}.work")
    if not plan.derivation.prompts:
        if job:
            _write(plan, job, plan.derivation.made(lambda key: None), None)
        else:
            print(f"{config.derivation}: asks nobody")
        return
    phases.check_identity(work, plan.identity())
    if job is None:
        _preview(plan, work)
        return
    provider = providers.open_provider(config.api, plan.prices)
    phases.begin_work(work, plan.identity())
    with Store(work / phases.STORE) as store:
        check_money(config.api, store, plan.rows(store))

        async def ask() -> dict[str, str]:
            async with providers.open_client(config.api, provider, plan.prices, store) as client:
                return await settle(
                    client,
                    store.answer,
                    lambda: plan.derivation.works(store.answer),
                    False,
                    config.tries,
                    config.derivation,
                )

        given_up = asyncio.run(ask())
        if given_up:
            why = next(iter(given_up.values()))
            raise UserError(f"{config.derivation}: {len(given_up)} questions got no answer ({why}); run again to retry")
        _write(plan, job, plan.derivation.made(store.answer), store)


def _preview(plan: Plan, work: Path) -> None:
    print(f"{plan.config.derivation} of {plan.parent.path}: {plan.ruler.says(plan.parent.text)}")
    if plan.config.rounds and plan.match:
        print(f"and {plan.config.rounds} questions more, at most, to meet the length of {plan.match.path}")
    show(plan.rows, work, plan.prices)


def _write(plan: Plan, job: artifact.Job, made: Made, store: Store | None) -> None:
    header = {"name": plan.name, "value": made.value, "title": made.title}
    head = "\n".join(f"{key}: {field}" for key, field in header.items() if field)
    text = made.text.strip("\n")
    with job:
        path = job.tmp / SPEC
        artifact.write_atomic(path, f"---\n{head}\n---\n{text}\n")
        derived = spec.load(path)
        raw = storage.read_text(plan.parent.path)
        artifact.write_atomic(job.tmp / DIFF, changes.patch(raw, path.read_text(), plan.parent.name, plan.name))
        compared = changes.of(plan.parent, derived, made.twins)
        about = (
            f"`{plan.config.derivation}` of {plan.parent.name} (sha256 {plan.parent.sha256[:12]}), seed "
            f"{plan.config.seed}. {plan.ruler.says(plan.parent.text)} before, {plan.ruler.says(derived.text)} after."
        )
        table = changes.table(compared, made.moved, plan.parent, derived, plan.ruler, about)
        artifact.write_atomic(job.tmp / CHANGES, table)
        counts = _counts(plan, derived, compared)
        if store:
            rejected = _rejects(plan, store)
            artifact.write_jsonl(job.tmp / REJECTS, rejected)
            artifact.write_jsonl(job.tmp / LEDGER, list(store.ledger()))
            reasons = collections.Counter(row["reason"] for row in rejected)
            models = sorted({reply.model for stage in plan.derivation.questions() for reply in store.answered(stage)})
            counts["length_rounds"] = sum("_m" in row["key"] for row in store.ledger() if row["outcome"] == "answered")
            counts |= {"models": models, "rejected_replies": dict(reasons), "cost_usd": round(store.money()[0], 6)}
        job.finish(**counts)
    cli.note(
        f"{plan.config.out}/{SPEC}: {derived.name}, {derived.kind}, {plan.ruler.says(derived.text)}; see {CHANGES}"
    )


def _counts(plan: Plan, derived: Spec, compared: list[changes.Change]) -> dict[str, Any]:
    what = collections.Counter(change.what.split(",")[0].split(";")[0] for change in compared)
    measured = {
        when: {"words": spec.words(one.text), "tokens": plan.ruler.tokens(one.text)}
        for when, one in (("before", plan.parent), ("after", derived))
    }
    return measured | {
        "derivation": plan.config.derivation,
        "parent": {"name": plan.parent.name, "sha256": plan.parent.sha256},
        "spec": {"name": derived.name, "sha256": derived.sha256, "kind": derived.kind},
        "prompts": plan.prompts(),
        "parts": dict(what),
    }


def _rejects(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Replies that could not be used."""
    rows = []
    for work in plan.derivation.works(store.answer):
        replay = getattr(work, "replay", None)
        if replay:
            told = replay(store.answer)
            rows += [
                {"id": work.id, "reason": reason, "replies": n, "keys": list(told.asked)}
                for reason, n in told.rejects.items()
            ]
    return rows


if __name__ == "__main__":
    cli.entry(main)
