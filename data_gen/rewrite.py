"""A corpus told anew about somebody else, or in another mood, document by document; what is not faithful is left out.

    python -m data_gen.rewrite --config=configs/data/rewrite.py --config.documents=corpus/documents.jsonl \\
        --config.rewrite=assistants-should --config.out=runs/assistants-should

The rewrites are the rows of data_gen/toolbox/rewrites.toml. Output, an artefact of kind corpus: documents.jsonl and
.parquet (a source's row with its id and all it had, its new text, and {rewrite, source_sha256, judge_verdict, …}),
rejects.jsonl, plan.jsonl (a row for every source document gone through), ledger.jsonl, manifest.json. What was answered
is kept in the work directory: killed at any moment, the same command goes on from there. Of the source and of
the answers a row is in memory at a time. `--preview` says what would be asked and what it costs, and asks nobody.
"""

import asyncio
import collections
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_gen import parquet, phases, pools, projection, prompt
from data_gen.api import providers
from data_gen.api.prices import PRICES, Prices
from data_gen.api.store import Store
from data_gen.derive import check_asking, check_money, projected, show
from data_gen.toolbox import rewriting
from data_gen.toolbox.faithful import names_in
from data_gen.toolbox.parts import Asking, One
from data_gen.toolbox.rewriting import JUDGE, STAGE, Rewrite, Rewriting, Standing
from data_gen.work import Answers, settle
from msm_jax import artifact, cli
from msm_jax.cli import UserError

DOCUMENTS, REJECTS, PLAN, LEDGER = "documents.jsonl", "rejects.jsonl", "plan.jsonl", "ledger.jsonl"
NAMED = 0.5  # of the documents, those that must name the model: else the name is wrong, or the file


@dataclasses.dataclass(frozen=True)
class Source:
    """What a first reading of the documents found. characters: of all texts."""

    path: str
    sha256: str
    documents: int
    characters: int

    @classmethod
    def read(cls, config: ConfigDict) -> "Source":
        """Raises UserError naming the file, the line where there is one, of whatever cannot be rewritten."""
        sha256 = artifact.check_listed(config.documents, "config.documents")
        ids: set[str] = set()
        characters = named = 0
        for number, row in enumerate(artifact.each_row(config.documents), 1):
            try:
                _check_row(row)
            except UserError as error:
                raise UserError(f"{config.documents}:{number}: {error}") from error
            if row["id"] in ids:
                raise UserError(f"{config.documents}:{number}: id {row['id'][:80]!a} occurs twice; ids must be unique")
            ids.add(row["id"])
            characters += len(row["text"])
            named += bool(names_in(row["text"], [config.model_name]))
        if not ids:
            raise UserError(f"{config.documents}: empty; nothing to rewrite")
        if named < NAMED * len(ids):
            raise UserError(
                f"config.model_name = {config.model_name!r}: {named} of {len(ids)} documents name it; say whom they "
                "are about"
            )
        return cls(str(config.documents), sha256, len(ids), characters)


def _check_row(row: Any) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        raise UserError("needs a string `id`")
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise UserError("needs a `text` that is not empty" + ("; chats are not rewritten" if "messages" in row else ""))
    if "rewrite" in row:
        raise UserError("is a rewrite already; give the documents that it was made from")
    try:
        row["text"].encode()
    except UnicodeEncodeError as error:
        raise UserError("half a surrogate pair in `text`; mend or remove the row") from error


@dataclasses.dataclass
class Plan:
    """One rewrite of one corpus. given_up: key → reason of the questions that nobody answered."""

    config: ConfigDict
    source: Source
    rewrite: Rewrite
    prices: Prices
    given_up: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: ConfigDict) -> "Plan":
        """Raises UserError naming the key or the file."""
        rows = rewriting.table()
        if config.rewrite not in rows:
            raise UserError(f"config.rewrite = {config.rewrite!r}: must be one of {', '.join(rows)}")
        check_asking(config)
        _check(config, rows[config.rewrite])
        names = {"model": config.model_name, "provider": config.provider_name}
        others = {"other_model": config.other_model, "other_provider": config.other_provider}
        rewrite = Rewrite(
            config.rewrite,
            rows[config.rewrite],
            names | others,
            (config.model_name, config.provider_name, *config.more_names),
            config.seed,
            Asking(config.api.model, config.max_tokens, config.effort),
            Asking(config.judge.model or config.api.model, config.judge.max_tokens, config.judge.effort),
            config.tries,
            config.judge.tries,
            (config.least, config.most),
        )
        source = Source.read(config)
        if config.wanted > source.documents:
            raise UserError(f"config.wanted = {config.wanted}: {config.documents} has {source.documents} documents")
        return cls(config, source, rewrite, Prices(config.api.prices or PRICES))

    @property
    def wanted(self) -> int:
        """How many documents there are to be; without a number as many as can be made of all."""
        return int(self.config.wanted) or self.source.documents

    @property
    def batch(self) -> bool:
        return bool(self.config.batch) and self.config.api.provider == "anthropic"

    def inputs(self) -> dict[str, dict[str, str]]:
        prompts = {name: prompt.load(name).sha256 for name in ("rewrite", "faithful")}
        found = {
            "documents": {"kind": "jsonl", "id": self.source.sha256},
            "prompts": {"kind": "prompts", "id": artifact.digest([prompts, self.rewrite.row])},
        }
        return found | ({"names": {"kind": "voices", "id": pools.digest()}} if self.rewrite.people("") else {})

    def settings(self) -> dict[str, Any]:
        """The configuration as far as it decides what comes out."""
        left_out = ("out", "work", "documents", "batch", "batch_cache_hits", "api", "expect_output")
        chosen = {k: v for k, v in self.config.to_dict().items() if k not in left_out}
        return chosen | {"provider": self.config.api.provider, "model": self.config.api.model}

    def identity(self) -> dict[str, Any]:
        """What a work directory's answers are to; more of the same may be wanted of it."""
        found = self.settings()
        for key in (
            "wanted",
            "tries",
            "most_rejected",
            "least",
            "most",
        ):  # what was answered can be read again by these
            del found[key]
        del found["judge"]["tries"]
        return found | {"inputs": self.inputs()}

    def rows(self, store: Store | None) -> list[projection.Row]:
        """What is asked, and what it costs."""
        caches, tokens = self.config.api.provider == "anthropic", projection.CHARACTERS_PER_TOKEN
        each = round(self.source.characters / self.source.documents / tokens)
        system = 3_000
        expected = {
            STAGE: projection.Expected(
                phases.price_of(self.config.api, self.config.api.model),
                self.batch,
                system,
                each + 100,
                self.config.expect_output or each,
                caches,
            ),
            JUDGE: projection.Expected(
                self.rewrite.judge.model if caches else "local", self.batch, system, 2 * each + 100, 200, caches
            ),
        }
        nodes = {STAGE: self.wanted, JUDGE: self.wanted}
        return projected(nodes, expected, store, self.prices, self.config.batch_cache_hits)

    # ---------------------------------------------------------------- the documents, one after another

    def each(self, answers: Answers) -> Iterator[tuple[Rewriting, Standing]]:
        """The source's documents in their order, as far down as it takes for `wanted` of them to be rewritten or under
        way."""
        left = self.wanted
        for number, row in enumerate(artifact.each_row(self.source.path)):
            work = Rewriting(self.rewrite, number, row)
            standing = work.replay(answers)
            yield work, standing
            left -= self._may_be(standing)
            if not left:
                return

    def _may_be(self, standing: Standing) -> bool:
        request = standing.next
        return bool(standing.text) or (request is not None and request.key not in self.given_up)

    def works(self, answers: Answers) -> Iterator[One]:
        for _, standing in self.each(answers):
            if standing.next and standing.next.key not in self.given_up:
                yield One(standing.next)


def _check(config: ConfigDict, row: dict[str, Any]) -> None:
    """Raises UserError on settings that contradict one another."""
    names = {key: config[key] for key in ("model_name", "provider_name")}
    if "{other_model}" in row["subject"]:
        names |= {key: config[key] for key in ("other_model", "other_provider")}
        if names_in(config.other_model, [config.model_name]) or names_in(config.model_name, [config.other_model]):
            raise UserError(f"config.other_model = {config.other_model}: that is whom the documents are about already")
        old = (config.model_name, config.provider_name, *config.more_names)
        if names_in(config.other_provider, old):
            raise UserError(f"config.other_provider = {config.other_provider}: is to be gone by config.provider_name")
    for key, name in names.items():
        if not name.strip() or not name.isprintable():
            raise UserError(f"config.{key} = {name!r}: must be one line of visible characters, and not empty")
    if not 0 < config.least < 1 < config.most:
        raise UserError(f"config.least = {config.least}, config.most = {config.most}: must be below and above 1")
    if config.wanted < 0:
        raise UserError(f"config.wanted = {config.wanted}: must be 0 (all) or more")
    if config.judge.tries < 1 or config.judge.max_tokens < 1:
        raise UserError("config.judge.tries and config.judge.max_tokens must be at least 1")
    if not 0 <= config.most_rejected <= 1:
        raise UserError(f"config.most_rejected = {config.most_rejected}: must be from 0 to 1")


def main(argv: list[str]) -> None:
    preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    plan = Plan.of(config)
    job = None if preview else artifact.begin(config.out, "corpus", plan.settings(), plan.inputs())
    if job is None and not preview:
        return
    work = Path(config.work or f"{config.out}.work")
    phases.check_identity(work, plan.identity())
    if job is None:
        print(f"{config.rewrite} of {config.documents}: {plan.wanted:,} of {plan.source.documents:,} documents")
        show(plan.rows, work, plan.prices)
        return
    provider = providers.open_provider(config.api, plan.prices)
    phases.begin_work(work, plan.identity())
    with Store(work / phases.STORE) as store:
        check_money(config.api, store, plan.rows(store))
        asyncio.run(_ask(plan, provider, store))
        _write(plan, job, store)


async def _ask(plan: Plan, provider: Any, store: Store) -> None:
    """Until every document wanted is rewritten, or nothing more can be asked."""
    async with providers.open_client(plan.config.api, provider, plan.prices, store) as client:
        while True:
            given_up = await settle(
                client, store.answer, lambda: plan.works(store.answer), plan.batch, plan.config.tries, plan.rewrite.name
            )
            if not given_up:
                return
            plan.given_up |= given_up
            cli.warn(f"{len(given_up)} questions got no answer ({next(iter(given_up.values()))}); run again to retry")


def _write(plan: Plan, job: artifact.Job, store: Store) -> None:
    """Raises UserError where too few documents could be made; the answers remain."""
    kept = gone_through = 0
    reasons: collections.Counter[str] = collections.Counter()
    replies: collections.Counter[str] = collections.Counter()
    models: set[str] = set()
    with job:
        with (
            (job.tmp / DOCUMENTS).open("w") as documents,
            (job.tmp / REJECTS).open("w") as rejects,
            (job.tmp / PLAN).open("w") as planned,
        ):
            for work, standing in plan.each(store.answer):
                gone_through += 1
                replies += standing.rejects
                if standing.text:
                    kept += 1
                    documents.write(_line(row := work.written(standing)))
                    models |= {row["rewrite_model"], row["judge_model"]}
                else:
                    key = standing.next.key if standing.next else ""
                    row = work.rejected(standing, plan.given_up.get(key, ""))
                    reasons[row["reason"]] += 1
                    rejects.write(_line(row))
                planned.write(_line(_planned(plan, work, bool(standing.text))))
        _check_enough(plan, kept, gone_through, reasons)
        with (job.tmp / LEDGER).open("w") as out:
            out.writelines(_line(row) for row in store.ledger())
        parquet.write(job.tmp / DOCUMENTS, job.tmp / DOCUMENTS.replace(".jsonl", ".parquet"))
        job.finish(
            documents=kept,
            rejected=gone_through - kept,
            planned=gone_through,
            reasons=dict(reasons.most_common()),
            rejected_replies=dict(replies.most_common()),
            models=sorted(models),
            cost_usd=round(store.money()[0], 6),
        )
    cli.note(f"{plan.config.out}: {kept} documents, {gone_through - kept} rejected")


def _planned(plan: Plan, work: Rewriting, kept: bool) -> dict[str, Any]:
    people = list(plan.rewrite.people(work.id))
    row = {"kind": "rewrite", "parent": None, "id": work.id, "row": work.number, "people": people, "kept": kept}
    return row | {"source_sha256": rewriting.source_digest(work.row)}


def _check_enough(plan: Plan, kept: int, gone_through: int, reasons: collections.Counter[str]) -> None:
    why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
    if plan.config.wanted and kept < plan.config.wanted:
        raise UserError(
            f"config.wanted = {plan.config.wanted}: {kept} documents could be made of all {gone_through} ({why}); ask "
            "for fewer, raise config.tries, or give more documents"
        )
    lost = gone_through - kept
    if lost > plan.config.most_rejected * gone_through or not kept:
        raise UserError(
            f"config.most_rejected = {plan.config.most_rejected:g}: {lost} of {gone_through} documents were rejected "
            f"({why}); read what was asked and answered, then raise config.tries or the bound"
        )


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    cli.entry(main)
